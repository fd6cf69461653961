"""What lies beside an adapter is read for hints and carried over; damaged files are ignored and logged, never an error."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lorax.catalog import ListedFile, Sure, facts, named, origin
from lorax.cli import main
from tests import builders
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
CARD = {"activation text": "crane", "preferred weight": 0.7, "sd version": "SDXL", "notes": "lovely", "description": "Mine."}


@pytest.fixture
def lora(files: Files, tmp_path: Path) -> Path:
    """One whose metadata says nothing, with all sidecars that people have."""
    made = builders.save_lora(tmp_path / "my.style.safetensors", files.deltas)
    made.with_suffix(".civitai.info").write_text(json.dumps(CIVITAI), encoding="utf-8")
    made.with_suffix(".json").write_text(json.dumps(CARD), encoding="utf-8-sig")
    for suffix in (".png", ".preview.png"):
        made.with_suffix(suffix).write_bytes(suffix.encode())
    return made


def test_hints(lora: Path) -> None:
    found = facts(lora)
    assert (found.trained_on, found.trigger_words, found.family) == ("SD 1.5", "crane", "Stable Diffusion 1.x")
    lora.with_suffix(".json").unlink()
    assert facts(lora).trigger_words == "fold, paper"


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
    names = {".civitai.info", ".json", ".png", ".preview.png", ".safetensors"}
    assert {path.name for path in out.iterdir()} == {f"moved{name}" for name in names}
    civitai, card = (json.loads((out / f"moved{suffix}").read_text("utf-8")) for suffix in (".civitai.info", ".json"))
    assert set(civitai) == {"modelId", "model", "name", "trainedWords", "description"}
    assert "AB" * 32 not in json.dumps(civitai)
    note = "my.style, moved from base to target by LoRA-X (copy)." if kind == "lora" else "my.style, for base and whatever"
    assert civitai["description"].startswith(f"<p>Best at 0.7</p>\n{note}")
    assert card["description"].startswith(f"Mine.\n{note}")
    assert (card["sd version"], card["activation text"], card["preferred weight"]) == ("SD1", "crane", 0.7)
    assert (out / "moved.png").read_bytes() == b".png"
    assert facts(out / "moved.safetensors").trained_on == ("target.safetensors" if kind == "lora" else "base.safetensors")


DAMAGED = [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 100_000, b'{"trainedWords": 3', b"9" * 5000]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_ones_are_ignored_and_logged(
    files: Files, lora: Path, out: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    for suffix in (".json", ".civitai.info"):
        lora.with_suffix(suffix).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = facts(lora)
    assert not found.problem
    assert (found.trained_on, found.trigger_words) == ("", "")
    ignored = [record.getMessage() for record in caplog.records]
    assert len(ignored) == 2
    for suffix, message in zip((".json", ".civitai.info"), ignored, strict=True):
        assert f"{lora.with_suffix(suffix)}: cannot be read as a card" in message
    assert origin(lora, [ListedFile("base", files.base)]).sure is Sure.GUESS, "by its family alone"
    assert main(["transfer", *arguments(files, lora), "--method", "copy", "--output", str(out)]) == 0
    assert {path.suffix for path in out.iterdir()} == {".png", ".safetensors"}


@pytest.mark.parametrize("odd", [None, 5, [], {}, ["a", 5, None, " "], "half \ud800"])
def test_fields_of_another_type_say_nothing(files: Files, lora: Path, out: Path, odd: object) -> None:
    for suffix, known in ((".json", CARD), (".civitai.info", CIVITAI)):
        lora.with_suffix(suffix).write_text(json.dumps(dict.fromkeys(known, odd)))
    found = facts(lora)
    expected = {list: "a", str: "half ?"}.get(type(odd) if odd else dict, "")
    assert found.trigger_words == expected
    assert found.trained_on == ("half ?" if isinstance(odd, str) else "")
    assert main(["transfer", *arguments(files, lora), "--method", "copy", "--output", str(out)]) == 0
    assert json.loads((out / "my.style-target.json").read_bytes())["sd version"] == "SD1"
