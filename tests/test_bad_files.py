"""Damaged containers and bases, and the wrong file in the wrong place: one clear message, exit code 2, nothing left behind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import builders, structure
from tests.samples import Files, raw, write


@pytest.mark.parametrize("role", ["lora", "source", "target"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated(files: Files, tmp_path: Path, refused: Callable[..., str], role: str, share: float) -> None:
    whole = (files.lora if role == "lora" else files.base).read_bytes()
    cut = write(tmp_path / "cut.safetensors", whole[: int(share * len(whole))])
    message = refused(**{role: cut})
    assert "cut.safetensors: not a whole safetensors file" in message
    assert "truncated" in message


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 1000) + b"{}",
        struct.pack("<Q", 1) + b"{}",
        raw(b"not json"),
        raw(b"\xff\xfe\x00"),
        raw(b"[]"),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [10**9, 10**9], "data_offsets": [0, 2 * 10**18]}}),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [2**63, 2**63], "data_offsets": [0, 8]}}, b"12345678"),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [-4], "data_offsets": [0, 8]}}, b"12345678"),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]}}, b"12345678"),
        b"<!DOCTYPE html><html>Access denied: log in to download this model.</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2000000\n",
    ],
)
def test_wrong_headers(tmp_path: Path, refused: Callable[..., str], content: bytes) -> None:
    broken = write(tmp_path / "broken.safetensors", content)
    for role in ("lora", "source", "target"):
        assert "broken.safetensors: not a whole safetensors file" in refused(**{role: broken})


def test_a_type_that_nobody_knows(tmp_path: Path, refused: Callable[..., str]) -> None:
    content = raw({"a.lora_up.weight": {"dtype": "F99", "shape": [4], "data_offsets": [0, 8]}}, b"12345678")
    odd = write(tmp_path / "odd.safetensors", content)
    for role in ("lora", "source", "target"):
        assert "odd.safetensors: a.lora_up.weight holds F99 values" in refused(**{role: odd})


def test_empty_header(tmp_path: Path, refused: Callable[..., str]) -> None:
    empty = write(tmp_path / "empty.safetensors", raw({}))
    assert "holds no tensors" in refused(lora=empty)
    assert "not a Stable Diffusion checkpoint" in refused(source=empty)


def test_checkpoint_as_lora(files: Files, refused: Callable[..., str]) -> None:
    assert "a base checkpoint, not a LoRA" in refused(lora=files.target)


def test_lora_as_base(files: Files, refused: Callable[..., str]) -> None:
    assert "an adapter; expected a base checkpoint" in refused(source=files.lora)
    assert "an adapter; expected a base checkpoint" in refused(target=files.lora)


def test_sdxl_lora_with_an_sd1_base(tmp_path: Path, refused: Callable[..., str]) -> None:
    state: builders.State = {}
    for name in ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "lora_te2_text_model_encoder_layers_0_mlp_fc1"):
        state |= {f"{name}.lora_up.weight": torch.randn(64, 4), f"{name}.lora_down.weight": torch.randn(4, 64)}
    save_file(state, tmp_path / "xl.safetensors")
    message = refused(lora=tmp_path / "xl.safetensors")
    assert "made for Stable Diffusion XL" in message
    assert "is Stable Diffusion 1.x" in message


def test_a_unet_of_no_family(files: Files, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A UNet without attention has none of the signs of a family."""
    save_file({f"{builders.UNET}input_blocks.0.0.weight": torch.randn(8, 4, 3, 3)}, tmp_path / "base.safetensors")
    message = refused(target=tmp_path / "base.safetensors")
    assert "an unknown kind of UNet, which is not supported. Supported: Stable Diffusion 1.x, Stable Diffusion 2.x, " in message


def test_lora_of_another_width(tmp_path: Path, refused: Callable[..., str]) -> None:
    wide = builders.save_lora(tmp_path / "wide.safetensors", builders.deltas(size=structure.WIDER))
    message = refused(lora=wide)
    assert "changes a weight of shape" in message
    assert "Choose as source the base that the adapter was trained on" in message


def test_lora_of_which_no_layer_exists(tmp_path: Path, refused: Callable[..., str]) -> None:
    state = {"lora_unet_nowhere.lora_up.weight": torch.randn(4, 4), "lora_unet_nowhere.lora_down.weight": torch.randn(4, 4)}
    save_file(state, tmp_path / "odd.safetensors")
    assert "made for another kind of base" in refused(lora=tmp_path / "odd.safetensors")


def test_missing_files_and_folders(files: Files, tmp_path: Path, refused: Callable[..., str]) -> None:
    gone = tmp_path / "gone"
    for role in ("lora", "source", "target"):
        assert "gone: no such file" in refused(**{role: gone})
    assert "not a diffusers folder" in refused(target=files.folder)
    assert "expected a .safetensors" in refused(target=write(tmp_path / "notes.txt", b"hello"))
    assert "its folder does not exist" in refused(None, None, None, "--output", str(gone / "x.safetensors"))
    assert str(gone) in refused(None, None, None, "--report", str(gone / "report.json"))


def test_existing_output_is_kept(files: Files, out: Path, refused: Callable[..., str]) -> None:
    kept = write(out / "moved.safetensors", b"precious")
    assert "exists already" in refused()
    assert kept.read_bytes() == b"precious"


def test_wrong_settings(refused: Callable[..., str]) -> None:
    for setting in ("--rank many", "--threshold 2", "--threshold nan", "--max-rank 0", "--device tpu"):
        assert setting.split()[1] in refused(None, None, None, *setting.split())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_base(files: Files, tmp_path: Path, refused: Callable[..., str], value: float) -> None:
    key = builders.UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    state = files.base_state | {key: files.base_state[key].clone()}
    state[key][2, 2] = value
    bad = builders.save(state, tmp_path / "bad.safetensors")
    for role in ("source", "target"):
        message = refused(**{role: bad})
        assert f"{key} holds NaN or infinite values" in message
    pairing = ("--pairing", "weights", "--method", "copy")
    assert f"{key} holds NaN or infinite values" in refused(None, bad, files.pruned, *pairing)
    assert f"{key} holds NaN or infinite values" in refused(None, files.base, bad, *pairing)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_bases_that_hold_no_floats(files: Files, tmp_path: Path, refused: Callable[..., str], dtype: torch.dtype) -> None:
    key = builders.UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    save_file(files.base_state | {key: files.base_state[key].to(dtype)}, tmp_path / "quantized.safetensors")
    for role in ("source", "target"):
        assert f"{key} holds {dtype} values; expected floating point" in refused(**{role: tmp_path / "quantized.safetensors"})
