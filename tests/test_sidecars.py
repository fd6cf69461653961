"""What lies beside an adapter is read for hints and carried over; damaged files are ignored and logged, never an error."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lorax.catalog import ListedFile, Sure, facts
from lorax.cli import main
from lorax.formats import sidecars
from lorax.output import store_weight
from tests import builders, families
from tests.origins import named, origin
from tests.samples import Files, arguments

CIVITAI: dict[str, Any] = {
    "id": 12345,
    "modelId": 678,
    "name": "v2.0",
    "baseModel": "SD 1.5",
    "trainedWords": ["fold", "paper"],
    "description": "<p>Best at 0.7</p>",
    "model": {"name": "Origami", "type": "LORA", "nsfw": False},
    "files": [{"name": "origami.safetensors", "hashes": {"SHA256": "AB" * 32}, "downloadUrl": "https://example.org/1"}],
    "images": [{"url": "https://example.org/2", "meta": {"hashes": {"model": "abc"}}}],
    "downloadUrl": "https://example.org/1",
}
MANAGER: dict[str, Any] = {
    "file_name": "my.style",
    "model_name": "Origami",
    "file_path": "/elsewhere/my.style.safetensors",
    "size": 1,
    "modified": 1.0,
    "sha256": "AB" * 32,
    "base_model": "SD 1.5",
    "preview_url": "/elsewhere/my.style.png",
    "notes": "Lovely.",
    "usage_tips": '{"strength": 0.8, "strength_max": 1.2}',
    "trainedWords": ["fold"],
    "tags": ["paper"],
    "favorite": True,
    "civitai": CIVITAI,
}
MATRIX: dict[str, Any] = {
    "ModelId": 678,
    "ModelName": "Origami",
    "ModelType": "LORA",
    "VersionId": 12345,
    "VersionDescription": "<p>Best at 0.7</p>",
    "BaseModel": "SD 1.5",
    "Hashes": {"SHA256": "AB" * 32, "BLAKE3": "AB" * 32},
    "TrainedWords": ["fold", "paper"],
    "ThumbnailImageUrl": "https://example.org/2",
}
KEPT: dict[str, dict[str, Any]] = {".civitai.info": CIVITAI, ".metadata.json": MANAGER, ".cm-info.json": MATRIX}
COPIED = (".png", ".preview.png", ".avif", ".preview.mp4", ".txt", ".description.txt")
CARD = {"activation text": "crane", "preferred weight": 0.7, "sd version": "SDXL", "notes": "lovely", "description": "Mine."}


@pytest.fixture
def lora(files: Files, tmp_path: Path) -> Path:
    """One whose metadata says nothing, with all sidecars that people have."""
    made = builders.save_lora(tmp_path / "my.style.safetensors", files.deltas)
    for suffix, known in KEPT.items():
        made.with_suffix(suffix).write_text(json.dumps(known), encoding="utf-8")
    made.with_suffix(".json").write_text(json.dumps(CARD), encoding="utf-8-sig")
    for suffix in COPIED:
        made.with_suffix(suffix).write_bytes(suffix.encode())
    return made


def test_hints(lora: Path) -> None:
    found = facts(lora)
    assert (found.trained_on, found.trigger_words, found.family) == ("SD 1.5", "crane", "Stable Diffusion 1.x")
    lora.with_suffix(".json").unlink()
    assert facts(lora).trigger_words == "fold, paper"


@pytest.mark.parametrize("suffix", KEPT)
def test_each_program_is_believed_where_it_is_the_only_one(lora: Path, suffix: str) -> None:
    for other in {".json", *KEPT} - {suffix}:
        lora.with_suffix(other).unlink()
    found = facts(lora)
    assert found.trained_on == "SD 1.5"
    assert found.trigger_words == ("fold" if suffix == ".metadata.json" else "fold, paper")
    assert found.weight == (0.8 if suffix == ".metadata.json" else None)


@pytest.mark.parametrize(("version", "family"), [("sd", "1.x"), ("SD1", "1.x"), ("SD2", "2.x"), ("xl", "XL"), ("SDXL", "XL")])
def test_the_version_on_the_card_is_read_in_every_webuis_words(lora: Path, version: str, family: str) -> None:
    lora.with_suffix(".json").write_text(json.dumps({"sd version": version}))
    found = sidecars.read(lora).family
    assert found
    assert found.title == f"Stable Diffusion {family}"


def test_the_metadata_comes_before_civitai(files: Files, lora: Path) -> None:
    builders.save_lora(lora, files.deltas, metadata={"ss_sd_model_name": "mine.safetensors"})
    assert facts(lora).trained_on == "mine.safetensors"
    assert origin(lora, [ListedFile("v1-5", lora.with_name("v1-5-pruned-emaonly.safetensors"))]).base is None


@pytest.mark.parametrize(
    ("base", "file"),
    [
        ("SD 1.5", "v1-5-pruned-emaonly.safetensors"),
        ("SD 1.5", "v1-5-pruned.ckpt"),
        ("SD 1.5", "sd_v1.5.safetensors"),
        ("SD 1.4", "sd-v1-4.ckpt"),
        ("SDXL 1.0", "sd_xl_base_1.0.safetensors"),
        ("SDXL 1.0", "sd_xl_base_1.0_0.9vae.safetensors"),
        ("Pony", "ponyDiffusionV6XL_v6StartWithThisOne.safetensors"),
        ("Illustrious", "Illustrious-XL-v0.1.safetensors"),
        ("NoobAI", "NoobAI-XL-v1.1.safetensors"),
    ],
)
def test_civitais_kind_of_base_is_proposed_when_nothing_is_named(lora: Path, base: str, file: str) -> None:
    lora.with_suffix(".civitai.info").write_text(json.dumps(CIVITAI | {"baseModel": base}))
    fine_tune = ListedFile("other", lora.with_name("sd15_cute_merge.safetensors"))
    meant = ListedFile("meant", lora.with_name(file))
    assert origin(lora, [fine_tune, meant]).base == meant
    assert origin(lora, [fine_tune]).base is None
    assert named(lora, [meant]) is None  # a hint only: to choose another source is no contradiction


@pytest.mark.parametrize("kind", ["lora", "lora-x"])
def test_they_are_carried_over_without_what_is_no_longer_true(files: Files, lora: Path, out: Path, kind: str) -> None:
    command = ["transfer", *arguments(files, lora), "--method", "copy", "--save-as", kind]
    assert main([*command, "--output", str(out / "moved.safetensors")]) == 0
    assert {path.name for path in out.iterdir()} == {f"moved{name}" for name in (".safetensors", ".json", *KEPT, *COPIED)}
    civitai, manager, matrix, card = (json.loads((out / f"moved{suffix}").read_text("utf-8")) for suffix in (*KEPT, ".json"))
    assert all(stale not in json.dumps([civitai, manager, matrix]) for stale in ("AB" * 32, "12345", "example.org", "elsewhere"))
    assert (civitai["modelId"], manager["civitai"]["modelId"], matrix["ModelId"]) == (678, 678, 678)
    assert manager["usage_tips"] == MANAGER["usage_tips"]
    note = "my.style, moved from base to target by LoRA-X (copy)." if kind == "lora" else "my.style, for base and whatever"
    assert civitai["description"].startswith(f"<p>Best at 0.7</p>\n{note}")
    assert matrix["VersionDescription"].startswith(f"<p>Best at 0.7</p>\n{note}")
    assert manager["notes"].startswith(f"Lovely.\n{note}")
    assert card["description"].startswith(f"Mine.\n{note}")
    assert all(builders.sha256(file)[:10] in card["description"] for file in (lora, files.base))
    assert card["description"].endswith("\nThe preferred weight is the original's, found on base.")
    assert (card["sd version"], card["activation text"], card["preferred weight"]) == ("sd", "crane", 0.7)
    assert all((out / f"moved{suffix}").read_bytes() == suffix.encode() for suffix in COPIED)
    assert facts(out / "moved.safetensors").trained_on == ("target.safetensors" if kind == "lora" else "base.safetensors")


DAMAGED = [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 100_000, b'{"trainedWords": 3', b"9" * 5000]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_ones_are_ignored_and_logged(
    files: Files, lora: Path, out: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    for suffix in (".json", *KEPT):
        lora.with_suffix(suffix).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = facts(lora)
    assert not found.problem
    assert (found.trained_on, found.trigger_words) == ("", "")
    ignored = [record.getMessage() for record in caplog.records]
    assert len(ignored) == 4
    for suffix, message in zip((".json", *KEPT), ignored, strict=True):
        assert f"{lora.with_suffix(suffix)}: cannot be read as a card" in message
    assert origin(lora, [ListedFile("base", files.base)]).sure is Sure.GUESS, "by its family alone"
    assert main(["transfer", *arguments(files, lora), "--method", "copy", "--output", str(out)]) == 0
    assert {path.name.removeprefix("my.style-target") for path in out.iterdir()} == {".safetensors", ".json", *COPIED}
    card = json.loads((out / "my.style-target.json").read_text("utf-8"))
    assert card["description"].startswith(".txt\nmy.style, moved from base to target"), "a card of its own"


@pytest.mark.parametrize("odd", [None, 5, [], {}, ["a", 5, None, " "], "half \ud800"])
def test_fields_of_another_type_say_nothing(files: Files, lora: Path, out: Path, odd: object) -> None:
    for suffix, known in {".json": CARD, **KEPT}.items():
        lora.with_suffix(suffix).write_text(json.dumps(dict.fromkeys(known, odd)))
    found = facts(lora)
    expected = {list: "a", str: "half ?"}.get(type(odd) if odd else dict, "")
    assert found.trigger_words == expected
    assert found.trained_on == ("half ?" if isinstance(odd, str) else "")
    assert main(["transfer", *arguments(files, lora), "--method", "copy", "--output", str(out)]) == 0
    assert json.loads((out / "my.style-target.json").read_bytes())["sd version"] == "sd"


def test_a_lora_without_a_card_gets_one_with_what_is_known(files: Files, lora: Path, out: Path) -> None:
    """The weight is marked as the original's, also when it is moved again, until the user finds one of the moved LoRA's own."""
    lora.with_suffix(".json").unlink()
    assert main(["transfer", *arguments(files, lora), "--method", "copy", "--output", str(out / "one.safetensors")]) == 0
    again = ["--source", str(files.target), "--target", str(files.pruned), "--method", "copy"]
    assert main(["transfer", str(out / "one.safetensors"), *again, "--output", str(out / "two.safetensors")]) == 0
    for name, lines in (("one", 3), ("two", 4)):
        card = json.loads((out / f"{name}.json").read_text("utf-8"))
        assert (card["activation text"], card["preferred weight"]) == ("fold, paper", 0.8)
        described = card["description"].split("\n")
        assert described[0] == ".txt", "which the WebUI does not show beside a card that has a description"
        assert [line for line in described if "original's" in line] == ["The preferred weight is the original's, found on base."]
        assert len(described) == lines
        store_weight(out / f"{name}.safetensors", 0.55)
        card = json.loads((out / f"{name}.json").read_text("utf-8"))
        assert card["preferred weight"] == 0.55
        assert "original's" not in card["description"]
        assert len(card["description"].split("\n")) == lines - 1


def test_a_card_with_an_empty_note_is_somebody_elses(files: Files, lora: Path, out: Path) -> None:
    (out / "one.json").write_text(card := json.dumps({"lorax": "", "description": "abc"}))
    assert main(["transfer", *arguments(files, lora), "--method", "copy", "--output", str(out / "one.safetensors")]) == 0
    assert (out / "one.json").read_text() == card


def test_lora_manager_is_told_the_base_where_it_is_in_use(files: Files, lora: Path, out: Path) -> None:
    """Its own files beside others tell that it is."""
    for path in lora.parent.glob(f"{lora.stem}.*"):
        if path != lora:
            path.unlink()
    found = []
    for name in ("one", "two"):
        target = ["--method", "copy", "--output", str(out / f"{name}.safetensors")]
        assert main(["transfer", *arguments(files, lora), *target]) == 0
        found.append((out / f"{name}.metadata.json").exists())
        (out / "another.metadata.json").write_text("{}")
    assert found == [False, True]
    assert json.loads((out / "two.metadata.json").read_text("utf-8"))["base_model"] == "SD 1.5"


@pytest.mark.parametrize(
    ("name", "beside", "expected"),
    [
        ("sd_xl_base_1.0", {}, "SDXL 1.0"),
        ("waiIllustriousSDXL_v140", {}, "Illustrious"),
        ("ponyDiffusionV6XL_v6StartWithThisOne", {}, "Pony"),
        ("NoobAI-XL-v1.1", {}, "NoobAI"),
        ("ponyDiffusionV6XL", {".civitai.info": {"baseModel": "SDXL Turbo"}}, "SDXL Turbo"),
        ("mine", {".civitai.info": {"baseModel": "Unknown"}, ".metadata.json": {"base_model": "Pony"}}, "Pony"),
        ("mine", {".cm-info.json": {"BaseModel": "Illustrious"}}, "Illustrious"),
    ],
)
def test_the_base_has_the_name_that_other_programs_know(
    tmp_path: Path, out: Path, name: str, beside: dict[str, Any], expected: str
) -> None:
    target = builders.save(families.MAKE["sdxl"](1), tmp_path / f"{name}.safetensors")
    for suffix, known in beside.items():
        target.with_suffix(suffix).write_text(json.dumps(known))
    written = families.save_lora(tmp_path / "xl.safetensors", target, lambda layer: layer.startswith("te1."))
    assert written
    for suffix, known in KEPT.items():
        (tmp_path / f"xl{suffix}").write_text(json.dumps(known))
    bases = ["--source", str(target), "--target", str(target), "--output", str(out / "moved.safetensors"), "--method", "copy"]
    assert main(["transfer", str(tmp_path / "xl.safetensors"), *bases]) == 0
    found = [json.loads((out / f"moved{suffix}").read_text("utf-8")) for suffix in KEPT]
    assert [kept[key] for kept, key in zip(found, ("baseModel", "base_model", "BaseModel"), strict=True)] == [expected] * 3
