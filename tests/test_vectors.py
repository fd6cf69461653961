"""Norms and biases go along as they are where the target has the same parameter, and what is left out is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.cli import main
from tests import builders
from tests.builders import State
from tests.samples import Files

PROJ, KERNEL = "lora_unet_mid_block_attentions_0_proj_in", "lora_unet_down_blocks_1_resnets_0_conv1"
# A norm of a residual block, of an attention module, of a transformer block, of no block, and of the text encoder.
NORMS = {
    "lora_unet_down_blocks_1_resnets_0_norm1": 32,
    "lora_unet_mid_block_attentions_0_norm": 96,
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm2": 96,
    "lora_unet_conv_norm_out": 32,
    "lora_te_text_model_encoder_layers_1_layer_norm2": 64,
}


def adapter() -> State:
    made = torch.Generator().manual_seed(4)
    state = {f"{PROJ}.diff": torch.randn(96, 96, 1, 1, generator=made), f"{PROJ}.diff_b": torch.randn(96, generator=made)}
    for name, size in NORMS.items():
        state |= {f"{name}.{part}_norm": torch.randn(size, generator=made) for part in "wb"}
    return state


def move(state: State, files: Files, target: Path, folder: Path, *more: str) -> tuple[State, dict]:
    """What is written, and the report."""
    save_file(state, folder / "full.safetensors")
    bases = ["--source", str(files.base), "--target", str(target), "--dtype", "fp32", "--method", "copy"]
    files_out = ["--output", str(folder / "out.safetensors"), "--report", str(folder / "report.json")]
    assert main(["transfer", str(folder / "full.safetensors"), *bases, *files_out, *more]) == 0
    return load_file(folder / "out.safetensors"), json.loads((folder / "report.json").read_text())


def left_out(report: dict) -> dict[str, str]:
    return {vector["key"]: vector["reason"] for vector in report["vectors"] if vector["target"] is None}


def test_they_are_written_as_they_were(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = adapter()
    written, report = move(state, files, files.target, tmp_path)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], value) for key, value in state.items() if not key.endswith(".diff"))
    assert torch.allclose(written[f"{PROJ}.diff"], state[f"{PROJ}.diff"], atol=1e-6)
    assert not left_out(report)
    assert "11 of 11 norms and biases carried over as they are." in capsys.readouterr().out


def test_half_a_norm_is_made_whole(files: Files, tmp_path: Path) -> None:
    """A1111 loads no file in which one of the two is missing."""
    name, state = "lora_unet_conv_norm_out", adapter()
    del state[f"{name}.b_norm"]
    written, _ = move(state, files, files.target, tmp_path)
    assert torch.equal(written[f"{name}.w_norm"], state[f"{name}.w_norm"])
    assert not written[f"{name}.b_norm"].any()


def test_they_follow_their_blocks_to_a_pruned_target(files: Files, tmp_path: Path) -> None:
    """The last block up of a level is the second one of the pruned base; the middle one is gone."""
    state = {f"lora_unet_up_blocks_1_resnets_{number}_norm2.{part}_norm": torch.randn(96) for number in (1, 2) for part in "wb"}
    written, report = move(load_file(files.lora) | state, files, files.pruned, tmp_path)
    norms = {key: value for key, value in written.items() if "_norm." not in key and key.endswith("_norm")}
    assert set(norms) == {f"lora_unet_output_blocks_3_0_out_layers_0.{part}_norm" for part in "wb"}
    for part in "wb":
        assert torch.equal(
            written[f"lora_unet_output_blocks_3_0_out_layers_0.{part}_norm"],
            state[f"lora_unet_up_blocks_1_resnets_2_norm2.{part}_norm"],
        )
    assert set(left_out(report).values()) == {"the target has no such parameter of this size"}


def test_what_is_left_out(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = adapter() | {
        f"{KERNEL}.lora_up.weight": torch.randn(64, 2, 1, 1),
        f"{KERNEL}.lora_down.weight": torch.randn(2, 32, 3, 3),
        f"{KERNEL}.diff_b": torch.randn(64),
        "lora_unet_nowhere.w_norm": torch.randn(8),
        "lora_unet_mid_block_resnets_0_norm1.w_norm": torch.randn(95),
    }
    written, report = move(state, files, files.target, tmp_path)
    assert left_out(report) == {
        f"{KERNEL}.diff_b": "a bias is read beside a whole difference only",
        "lora_unet_nowhere.w_norm": "the source has no such layer",
        "lora_unet_mid_block_resnets_0_norm1.w_norm": "the target has no such parameter of this size",
    }
    assert written.keys().isdisjoint(left_out(report))
    assert "1 left out: the source has no such layer." in capsys.readouterr().out


def test_a_largest_rank_leaves_the_bias_out(files: Files, tmp_path: Path) -> None:
    written, report = move(adapter(), files, files.target, tmp_path, "--max-rank", "4")
    (reason,) = left_out(report).values()
    assert "largest rank" in reason
    assert written[f"{PROJ}.lora_down.weight"].shape[0] == 4


def test_a_bias_stays_behind_with_its_layer(files: Files, tmp_path: Path) -> None:
    lora = builders.adapter(files.deltas)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    state = lora | {
        f"{PROJ}.diff": torch.randn(96, 96, 1, 1),
        f"{PROJ}.diff_b": torch.randn(96),
        f"{key}.diff": torch.randn(96, 64),
    }
    save_file(state, tmp_path / "full.safetensors")
    _, report = move(state, files, files.stranger, tmp_path, "--method", "lorax", "--threshold", "0")
    assert not left_out(report)
    skipped = ["--method", "lorax", "--threshold", "0.99", "--overwrite"]
    save = ["--source", str(files.base), "--target", str(files.stranger), "--output", str(tmp_path / "b.safetensors")]
    main(["analyze", str(tmp_path / "full.safetensors"), *save[:4], *skipped[:4], "--report", str(tmp_path / "b.json")])
    assert left_out(json.loads((tmp_path / "b.json").read_text())) == {f"{PROJ}.diff_b": "its layer was not moved"}


def test_a_lorax_file_leaves_them_out(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, _ = move(adapter(), files, files.target, tmp_path, "--save-as", "lora-x")
    assert {key.rpartition(".lorax_")[0] or key for key in written if not key.endswith(".alpha")} == {PROJ}
    assert "Its norms and biases are left out" in capsys.readouterr().out
