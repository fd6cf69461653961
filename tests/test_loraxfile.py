"""The LoRA-X file: written from a plan, read as an adapter, refused with the reason when it is not understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.inspection import inspect
from lorax.options import Options
from lorax.transfer import Plan, plan
from tests import builders
from tests.measures import distance
from tests.samples import Files, changed


def planned(files: Files, **options: object) -> Plan:
    base = open_checkpoint(files.base)
    return plan(open_adapter(files.lora), base, base, Options(**options))  # type: ignore[arg-type]


def test_the_file_holds_the_source_side_factors(files: Files, out: Path) -> None:
    path = out / "style-x.safetensors"
    assert save_lorax(planned(files, method="prolora", rank="50%", max_rank=7), path, dtype="fp32")[0] == path
    parts = {key.partition(".")[2] for key in load_file(path)}
    assert parts == {"lorax_up.weight", "lorax_down.weight", "alpha"}
    adapter = open_adapter(path)
    assert len(adapter.layers) == len(files.deltas)
    for delta in files.deltas:
        read = adapter.delta(delta.named("kohya"))
        assert distance((read.scale * read.up @ read.down).double().numpy(), delta.dense) < 1e-6


def test_the_header_says_what_fitting_needs(files: Files, out: Path) -> None:
    path = out / "style-x.safetensors"
    save_lorax(planned(files, method="prolora", rank="50%", max_rank=7), path)
    header = open_adapter(path).header
    assert header is not None
    assert (header.family.name, header.source, header.source_sha256) == ("sd1", files.base.name, builders.sha256(files.base))
    assert header.method == "prolora"
    assert header.settings == {"rank": "50%", "threshold": 0.8, "pairing": "auto", "max_rank": 7, "dtype": "fp16"}
    base = open_checkpoint(files.base)
    assert header.fingerprint == base.identity.fingerprint(delta.layer for delta in files.deltas)
    written = builders.header(path)
    assert written["ss_sd_model_name"] == files.base.name
    assert written["ss_output_name"] == "style-x"
    assert inspect(path)["kind"] == "LoRA-X"


def test_a_half_precision_copy_of_the_base_has_the_same_fingerprint_and_a_fine_tune_has_not(files: Files, out: Path) -> None:
    import torch

    layers = [delta.layer for delta in files.deltas]
    half = builders.save(files.base_state, out / "half.safetensors", torch.float16)
    folder = builders.save_folder(files.base_state, out / "folder")
    base = open_checkpoint(files.base).identity.fingerprint(layers)
    assert open_checkpoint(half).identity.fingerprint(layers) == base
    assert open_checkpoint(folder).identity.fingerprint(layers) == base
    assert open_checkpoint(files.target).identity.fingerprint(layers) != base


def test_a_transfer_from_it_is_a_plain_lora(files: Files, out: Path) -> None:
    path, moved = out / "style-x.safetensors", out / "moved.safetensors"
    save_lorax(planned(files), path)
    command = ["transfer", str(path), "--source", str(files.base), "--target", str(files.target), "--output", str(moved)]
    assert main(command) == 0
    assert "lorax_format" not in builders.header(moved)
    assert open_adapter(moved).header is None


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lorax_format": "2"}, "format 2; this version reads up to format 1. Update the extension."),
        ({"lorax_format": "one"}, "header of this LoRA-X file is damaged"),
        ({"lorax_format": None}, "header of this LoRA-X file is damaged"),
        ({"lorax_family": "sd9"}, "made for the family 'sd9', which is not known"),
        ({"lorax_source_fingerprint": None}, "header of this LoRA-X file is damaged"),
        ({"lorax_settings": "["}, "lorax_settings of a LoRA-X file"),
        ({"lorax_settings": "[]"}, "lorax_settings of a LoRA-X file: expected a JSON object"),
    ],
)
def test_what_is_not_understood_is_refused(files: Files, out: Path, metadata: dict[str, str | None], words: str) -> None:
    save_lorax(planned(files), out / "style-x.safetensors")
    path = changed(out / "style-x.safetensors", out, **metadata)
    with pytest.raises(LoraxError, match=r"LoRA-X|family") as error:
        open_adapter(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_newer_version_is_refused_whatever_its_keys(files: Files, out: Path) -> None:
    path = out / "newer.safetensors"
    tensors = {key.replace("lorax_up", "lorax_core"): value for key, value in load_file(files.lora).items()}
    save_file(tensors, path, {"lorax_format": "7"})
    with pytest.raises(LoraxError, match=r"format 7.*Update the extension"):
        open_adapter(path)


def test_nothing_is_overwritten_unasked(files: Files, out: Path) -> None:
    path = out / "style-x.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(LoraxError, match="exists already"):
        save_lorax(planned(files), path)
    assert path.read_bytes() == b"mine"
    save_lorax(planned(files), path, overwrite=True)
    assert open_adapter(path).header


def test_preview_and_card_are_carried_over(files: Files, out: Path) -> None:
    lora = builders.save_lora(out / "with-card.safetensors", files.deltas)
    lora.with_suffix(".preview.png").write_bytes(b"picture")
    lora.with_suffix(".json").write_text(json.dumps({"activation text": "style", "description": "mine"}))
    base = open_checkpoint(files.base)
    written = save_lorax(plan(open_adapter(lora), base, base, Options()), out / "x.safetensors")
    assert [path.name for path in written] == ["x.safetensors", "x.preview.png", "x.json"]
    card = json.loads((out / "x.json").read_text())
    assert card["activation text"] == "style"
    assert card["sd version"] == "sd"
    assert card["description"].startswith("mine\n")
