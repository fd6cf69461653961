"""What a transfer writes: the header of the adapter, and the preview and the card beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from lorax import __version__
from lorax.cli import main
from tests import builders, families
from tests.samples import SOURCE_METADATA, Files, arguments, changed, transfer


def test_metadata(files: Files, styled: Path, out: Path) -> None:
    written = out / "moved.safetensors"
    assert main(["transfer", *arguments(files, styled), "--output", str(written), "--method", "copy"]) == 0
    found = builders.header(written)
    expected = {
        "ss_tag_frequency": SOURCE_METADATA["ss_tag_frequency"],
        "ss_output_name": "moved",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "target.safetensors",
        "ss_new_sd_model_hash": builders.sha256(files.target),
        "ss_sd_model_hash": hashlib.sha256(files.target.read_bytes()[0x100000:0x110000]).hexdigest()[:8],
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_resolution": "(640, 640)",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "moved",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"lorax-webui/{__version__}",
        "modelspec.resolution": "640x640",
        "modelspec.thumbnail": "data:image/png;base64,AAAA",
        "modelspec.merged_from": "my style.v2",
        "modelspec.trigger_phrase": "origami",
        "lorax_version": __version__,
        "lorax_source_lora": "my style.v2.safetensors",
        "lorax_source_lora_hash": builders.sha256(styled),
        "lorax_source_model": "base.safetensors",
        "lorax_source_model_hash": builders.sha256(files.base),
        "lorax_target_model": "target.safetensors",
        "lorax_target_model_hash": builders.sha256(files.target),
        "lorax_method": "copy",
        "lorax_coverage": "1.0000",
    }
    assert expected.items() <= found.items()
    assert found["modelspec.date"] > "2024"
    note = "my style.v2, moved from base to target by LoRA-X (copy). sha256: my style.v2 {}, base {}, target {}."
    note = note.format(*(builders.sha256(file)[:10] for file in (styled, files.base, files.target)))
    assert found["modelspec.description"] == f"Folds.\n{note}"
    assert found["ss_training_comment"] == f"{note.removesuffix('.')}; by hand"
    assert json.loads(found["lorax_settings"])["rank"] == "auto"


def test_what_was_true_of_the_family_only(tmp_path: Path, out: Path) -> None:
    """A LoRA of SD 1.x's text encoder, which SDXL has, too."""
    bases = families.make(tmp_path)
    families.save_lora(tmp_path / "a.safetensors", bases["sd1"].path, lambda layer: layer.startswith("te."))
    lora = changed(tmp_path / "a.safetensors", tmp_path, **SOURCE_METADATA, **{"modelspec.encoder_layer": "2"})
    found = builders.header(transfer(lora, bases["sd1"].path, bases["sdxl"].path, out))
    assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert found["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
    assert (found["modelspec.resolution"], found["ss_resolution"]) == ("1024x1024", "(1024, 1024)")
    assert not found.keys() & {"modelspec.thumbnail", "modelspec.encoder_layer"}


@pytest.mark.parametrize(("trained", "expected"), [("(768, 512)", "768x512"), ("640,640", "640x640"), ("None", "512x512")])
def test_the_resolution_is_that_of_the_training(files: Files, tmp_path: Path, out: Path, trained: str, expected: str) -> None:
    lora = changed(files.lora, tmp_path, ss_resolution=trained)
    found = builders.header(transfer(lora, files.base, files.target, out, "--method", "copy"))
    assert (found["modelspec.resolution"], found["ss_resolution"]) == (expected, trained)


@pytest.mark.parametrize("thumbnail", ["C:/mine/picture.png", "data:image/png;base64," + "A" * (1 << 20)])
def test_a_thumbnail_that_is_none_or_huge_is_left_out(files: Files, tmp_path: Path, out: Path, thumbnail: str) -> None:
    lora = changed(files.lora, tmp_path, **{"modelspec.thumbnail": thumbnail})
    assert "modelspec.thumbnail" not in builders.header(transfer(lora, files.base, files.target, out, "--method", "copy"))


def test_the_trigger_phrase_is_the_one_that_people_see(files: Files, styled: Path, out: Path) -> None:
    styled.with_suffix(".json").write_text(json.dumps({"activation text": "crane"}))
    assert builders.header(transfer(styled, files.base, files.target, out))["modelspec.trigger_phrase"] == "crane"


def test_alpha_and_rank_that_vary_are_dynamic(files: Files, tmp_path: Path, out: Path) -> None:
    deltas = [*builders.deltas(builders.SOME[:2], rank=2), *builders.deltas(builders.SOME[2:4], rank=4, alpha=1.0)]
    lora = builders.save_lora(tmp_path / "mixed.safetensors", deltas)
    assert main(["transfer", *arguments(files, lora), "--output", str(out), "--method", "copy"]) == 0
    found = builders.header(out / "mixed-target.safetensors")
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_network_settings_are_those_of_what_is_written(files: Files, tmp_path: Path, out: Path) -> None:
    """kohya keeps convolutions with a kernel apart; what another trainer's network was made with is no longer true."""
    linear, convolutions = builders.deltas(builders.SOME), builders.deltas(builders.CONVOLUTIONS, rank=3, alpha=1.0)
    stale = SOURCE_METADATA | {"ss_network_args": '{"conv_dim": "64", "conv_alpha": "32", "algo": "loha"}'}
    locon = builders.save_lora(tmp_path / "locon.safetensors", [*linear, *convolutions], metadata=stale)
    plain = builders.save_lora(tmp_path / "plain.safetensors", linear, metadata=stale)
    kernels = builders.save_lora(tmp_path / "kernels.safetensors", convolutions)
    common = ["--output", str(out), "--method", "copy", "--overwrite"]
    for lora, more, dim, alpha, convolution in (
        (locon, (), "4", "2", {"conv_dim": "3", "conv_alpha": "1"}),
        (locon, ("--max-rank", "2"), "2", "1", {"conv_dim": "2", "conv_alpha": "0.666667"}),
        (plain, (), "4", "2", None),
        (kernels, (), "3", "1", {"conv_dim": "3", "conv_alpha": "1"}),
    ):
        assert main(["transfer", *arguments(files, lora), *common, *more]) == 0
        found = builders.header(out / f"{lora.stem}-target.safetensors")
        assert (found["ss_network_module"], found["ss_network_dim"], found["ss_network_alpha"]) == ("networks.lora", dim, alpha)
        assert json.loads(found.get("ss_network_args", "null")) == convolution


def test_alphas_that_differ_by_rounding_are_one(files: Files, tmp_path: Path, out: Path) -> None:
    """0.3 of rank 3 and 0.7 of rank 7 are 0.2 of rank 2, but not to the last digit."""
    deltas = [*builders.deltas(builders.SOME[:2], rank=3, alpha=0.3), *builders.deltas(builders.SOME[2:4], rank=7, alpha=0.7)]
    lora = builders.save_lora(tmp_path / "style.safetensors", deltas)
    assert main(["transfer", *arguments(files, lora), "--output", str(out), "--method", "copy", "--max-rank", "2"]) == 0
    found = builders.header(out / "style-target.safetensors")
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("2", "0.2")


def test_hashes_are_kohyas_and_modelspecs(files: Files, styled: Path, out: Path) -> None:
    """sd-scripts hashes a file whose header holds the ss_ keys alone. ModelSpec's hash is that of all after the header."""
    written = out / "moved.safetensors"
    assert main(["transfer", *arguments(files, styled), "--output", str(written), "--method", "copy"]) == 0
    found, content = builders.header(written), written.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    assert found["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert found["modelspec.hash_sha256"] == f"0x{hashlib.sha256(body).hexdigest()}"
    as_kohya = save(load_file(written), {key: value for key, value in found.items() if key.startswith("ss_")})
    assert found["sshs_legacy_hash"] == hashlib.sha256(as_kohya[0x100000:0x110000]).hexdigest()[:8]
    assert found["sshs_model_hash"] != SOURCE_METADATA["sshs_model_hash"]


def test_preview_and_card_are_carried(files: Files, styled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", *arguments(files, styled), "--method", "copy"]) == 0
    folder, stem = styled.parent, "my style.v2-target"
    assert (folder / f"{stem}.preview.png").read_bytes() == b"preview"
    assert (folder / f"{stem}.jpg").read_bytes() == b"image"
    card = json.loads((folder / f"{stem}.json").read_text())
    assert card["activation text"] == "origami"
    assert card["preferred weight"] == 0.7
    assert card["sd version"] == "sd"
    assert card["description"].startswith("Paper folds.\nmy style.v2, moved from base to target")
    printed = capsys.readouterr().out
    assert all(f"wrote {folder / stem}{suffix}" in printed for suffix in (".safetensors", ".preview.png", ".jpg", ".json"))


def test_sidecars_that_exist_or_are_not_the_webuis_are_left_alone(files: Files, styled: Path, out: Path) -> None:
    (out / "moved.jpg").write_bytes(b"mine")
    styled.with_suffix(".json").write_text("[1, 2]")
    assert main(["transfer", *arguments(files, styled), "--output", str(out / "moved.safetensors"), "--method", "copy"]) == 0
    assert (out / "moved.jpg").read_bytes() == b"mine"
    assert set(json.loads((out / "moved.json").read_text())) == {"activation text", "description", "sd version", "lorax"}


def test_a_card_of_an_earlier_transfer_is_kept_true(files: Files, styled: Path, out: Path) -> None:
    """What the user has changed on it stays; a card of anyone else is left alone."""
    written = transfer(styled, files.base, files.target, out, "--method", "copy")
    card = written.with_suffix(".json")
    changed = json.loads(card.read_text()) | {"notes": "mine", "preferred weight": 0.5}
    card.write_text(json.dumps(changed | {"description": changed["description"].replace("Paper folds.", "Cranes.")}))
    transfer(styled, files.base, files.pruned, out, "--method", "copy", "--overwrite")
    again = json.loads(card.read_text())
    assert again["description"].startswith("Cranes.\nmy style.v2, moved from base to pruned by LoRA-X (copy).")
    assert "target" not in again["description"]
    assert (again["notes"], again["preferred weight"]) == ("mine", 0.5)
    card.write_text('{"description": "mine"}')
    transfer(styled, files.base, files.pruned, out, "--method", "copy", "--overwrite")
    assert card.read_text() == '{"description": "mine"}'


def test_a_card_with_odd_content(files: Files, styled: Path, out: Path) -> None:
    styled.with_suffix(".json").write_text('{"description": 5}')
    assert main(["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]) == 0
    assert json.loads((out / "my style.v2-target.json").read_text())["description"].startswith("5\n")


def test_a_report_where_the_card_would_go(files: Files, styled: Path, out: Path) -> None:
    report = out / "moved.json"
    command = ["transfer", *arguments(files, styled), "--output", str(out / "moved.safetensors"), "--method", "copy"]
    assert main([*command, "--report", str(report)]) == 0
    assert json.loads(report.read_text())["method"] == "copy"


def test_same_input_same_file(files: Files, styled: Path, out: Path) -> None:
    for name in ("a", "b"):
        assert main(["transfer", *arguments(files, styled), "--output", str(out / name), "--method", "prolora"]) == 0
    a, b = (load_file(out / f"{name}.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)
