"""The table of families: whatever it says of a family is used, so that a further family is a further row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lorax.checkpoint import SD1, SDXL, Family, families
from lorax.checkpoint.families import detect_adapter
from lorax.cli import main
from tests import builders
from tests.samples import Files

PROJECTION = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.mark.parametrize(
    ("name", "down", "expected"),
    [
        (PROJECTION, (4, 32, 1, 1), SD1),
        (PROJECTION, (4, 32), None),  # flattened or linear
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", (4, 32), None),
        ("unet.mid_block.attentions.0.transformer_blocks.3.attn1.to_q", (4, 32), SDXL),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", (4, 32), SDXL),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", (4, 32), SDXL),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", (4, 32), None),
    ],
)
def test_what_an_adapter_tells(name: str, down: tuple[int, ...], expected: Family | None) -> None:
    assert detect_adapter([name], {name: down}) is expected


def test_a_further_row_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(SDXL, name="other", adapter_names="lora_te3_")
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, other))
    assert detect_adapter(["lora_te3_layers_0"], {"lora_te3_layers_0": (4, 8)}) is other


def test_a_written_file_says_what_the_row_says(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(SD1, base_version="v9", v2=True, architecture="nine/lora", card_versions=("SD9",))
    monkeypatch.setattr(families, "FAMILIES", (row,))
    lora = builders.save_lora(tmp_path / "a.safetensors", files.deltas)
    lora.with_suffix(".json").write_text("{}")
    bases = ("--source", str(files.base), "--target", str(files.target))
    assert main(["transfer", str(lora), *bases, "--method", "copy"]) == 0
    found = builders.header(tmp_path / "a-target.safetensors")
    assert (found["ss_base_model_version"], found["ss_v2"], found["modelspec.architecture"]) == ("v9", "True", "nine/lora")
    assert json.loads((tmp_path / "a-target.json").read_text())["sd version"] == "SD9"
