"""Adapters whose content is wrong: one clear message that names the file and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import builders
from tests.samples import Files

State = builders.State


MIDDLE = "lora_unet_mid_block_attentions_0_proj_in"
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def without_up(state: State) -> None:
    del state[f"{NAME}.lora_up.weight"]


def without_down(state: State) -> None:
    del state[f"{NAME}.lora_down.weight"]


def ranks_disagree(state: State) -> None:
    state[f"{NAME}.lora_up.weight"] = torch.randn(32, 3)


def no_rank(state: State) -> None:
    state[f"{NAME}.lora_up.weight"], state[f"{NAME}.lora_down.weight"] = torch.randn(32, 0), torch.randn(0, 32)


def one_part_by_two_names(state: State) -> None:
    state[f"{NAME}.lora_B.weight"] = 100 * state[f"{NAME}.lora_up.weight"]


def whole_numbers(state: State) -> None:
    state[f"{NAME}.lora_up.weight"] = torch.ones(state[f"{NAME}.lora_up.weight"].shape, dtype=torch.int8)


def a_vector(state: State) -> None:
    state[f"{NAME}.lora_down.weight"] = torch.randn(4)


def up_with_a_kernel(state: State) -> None:
    state[f"{NAME}.lora_up.weight"] = torch.randn(32, 4, 3, 3)


def nan_in_up(state: State) -> None:
    state[f"{NAME}.lora_up.weight"][3, 1] = float("nan")


def infinite_down(state: State) -> None:
    state[f"{NAME}.lora_down.weight"][1, 2] = float("inf")


def nan_alpha(state: State) -> None:
    state[f"{NAME}.alpha"] = torch.tensor(float("nan"))


def huge_factors(state: State) -> None:
    for part in ("up", "down"):
        state[f"{NAME}.lora_{part}.weight"] *= 1e30


def huge_alpha(state: State) -> None:
    state[f"{NAME}.alpha"] = torch.tensor(1e30)


def too_large_together(state: State) -> None:
    """Each part can be read, but the alpha that is left when the factors are near one is infinite in float32."""
    for part in ("lora_up.weight", "lora_down.weight", "alpha"):
        state[f"{NAME}.{part}"] *= 1e16


def two_alphas(state: State) -> None:
    state[f"{NAME}.alpha"] = torch.tensor([1.0, 2.0])


def flat_mid(state: State) -> None:
    state[f"{NAME}.lora_mid.weight"] = torch.randn(4, 4)


def mid_with_a_second_kernel(state: State) -> None:
    state[f"{NAME}.lora_mid.weight"] = torch.randn(4, 4, 3, 3)
    state[f"{NAME}.lora_down.weight"] = torch.randn(4, 32, 3, 3)


def mid_of_other_rank(state: State) -> None:
    state[f"{NAME}.lora_mid.weight"] = torch.randn(5, 4, 3, 3)


def only_alpha(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.alpha"] = torch.tensor(1.0)


def loha(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"] = torch.randn(4, 4)


def hada_of_two_ranks(state: State) -> None:
    shapes = {"hada_w1_a": (4, 2), "hada_w1_b": (3, 4), "hada_w2_a": (4, 2), "hada_w2_b": (2, 4)}
    state.update({f"{MIDDLE}.{part}": torch.randn(shape) for part, shape in shapes.items()})


def tucker_of_two_ranks(state: State) -> None:
    shapes = {"w1_a": (2, 4), "w1_b": (2, 4), "w2_a": (2, 4), "w2_b": (2, 4), "t1": (2, 2, 3, 3), "t2": (3, 2, 3, 3)}
    state.update({f"{MIDDLE}.hada_{part}": torch.randn(shape) for part, shape in shapes.items()})


def half_a_kronecker_factor(state: State) -> None:
    state[f"{MIDDLE}.lokr_w1"], state[f"{MIDDLE}.lokr_w2_a"] = torch.randn(2, 2), torch.randn(4, 2)


def no_second_kronecker_factor(state: State) -> None:
    state[f"{MIDDLE}.lokr_w1"] = torch.randn(2, 2)


def kronecker_of_two_ranks(state: State) -> None:
    half_a_kronecker_factor(state)
    state[f"{MIDDLE}.lokr_w2_b"] = torch.randn(3, 4)


def flat_difference(state: State) -> None:
    state[f"{MIDDLE}.diff"] = torch.randn(4)


def two_formats(state: State) -> None:
    state[f"{NAME}.hada_w1_a"] = torch.randn(4, 2)


def dora_of_another_width(state: State) -> None:
    state[f"{NAME}.dora_scale"] = torch.randn(1, 31)


def half_a_glora(state: State) -> None:
    shapes = {"a1": (4, 2), "a2": (3, 4), "b1": (4, 3)}
    state.update({f"{MIDDLE}.{part}.weight": torch.randn(shape) for part, shape in shapes.items()})


def glora_of_two_ranks(state: State) -> None:
    half_a_glora(state)
    state[f"{MIDDLE}.b2.weight"] = torch.randn(3, 4)


def oft_that_is_not_square(state: State) -> None:
    state[f"{MIDDLE}.oft_blocks"] = torch.randn(4, 8, 7)


def oft_of_another_width(state: State) -> None:
    state[f"{MIDDLE}.oft_blocks"] = torch.randn(5, 8, 8)


def rescale_alone(state: State) -> None:
    state[f"{MIDDLE}.rescale"] = torch.randn(96, 1)


def rescale_of_another_width(state: State) -> None:
    state[f"{MIDDLE}.oft_blocks"], state[f"{MIDDLE}.rescale"] = torch.randn(12, 8, 8), torch.randn(95, 1)


def boft_of_odd_blocks(state: State) -> None:
    state[f"{MIDDLE}.oft_blocks"] = torch.randn(2, 32, 3, 3)


def norm_of_two_dimensions(state: State) -> None:
    state["lora_unet_mid_block_resnets_0_norm1.w_norm"] = torch.randn(96, 1)


def nan_in_a_bias(state: State) -> None:
    state[f"{MIDDLE}.diff"], state[f"{MIDDLE}.diff_b"] = torch.randn(96, 96, 1, 1), torch.full((96,), float("nan"))


def full(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.diff"] = torch.randn(4, 4)


def ia3_without_its_side(state: State) -> None:
    state[f"{MIDDLE}.weight"], state[f"{MIDDLE}_2.weight"] = torch.randn(96), torch.randn(96)
    state[f"{MIDDLE}_2.on_input"] = torch.tensor(1)


def ia3_of_another_width(state: State) -> None:
    state[f"{MIDDLE}.weight"], state[f"{MIDDLE}.on_input"] = torch.randn(95), torch.tensor(1)


def peft_ia3_of_either_side(state: State) -> None:
    state[f"{MIDDLE}.ia3_l"] = torch.randn(1, 96, 1, 1)


def something_else(state: State) -> None:
    state["emb_params"] = torch.randn(4, 64)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (without_up, "up factor is missing"),
        (without_down, "down factor is missing"),
        (ranks_disagree, "ranks disagree"),
        (no_rank, "rank"),
        (one_part_by_two_names, f"{NAME}.lora_B.weight and {NAME}.lora_up.weight are the same part of a layer"),
        (whole_numbers, f"{NAME}.lora_up.weight holds whole numbers (torch.int8)"),
        (a_vector, "down factor has shape (4,)"),
        (up_with_a_kernel, "up"),
        (nan_in_up, "up part holds NaN"),
        (infinite_down, "down part holds NaN or infinite"),
        (nan_alpha, "alpha part holds NaN"),
        (huge_factors, "part holds NaN or infinite values, or some beyond 1e+18"),
        (huge_alpha, "alpha part holds NaN or infinite values, or some beyond 1e+18"),
        (too_large_together, f"{NAME}.alpha would be infinite"),
        (two_alphas, "alpha"),
        (flat_mid, "mid"),
        (mid_with_a_second_kernel, "mid"),
        (mid_of_other_rank, "ranks disagree"),
        (only_alpha, "up factor is missing"),
        (loha, "lora_unet_mid_block_attentions_0_proj_in: hada_w1_b is missing"),
        (dora_of_another_width, f"{NAME}: the lengths of DoRA have the shape (1, 31); expected (32, 1) or (1, 32)"),
        (glora_of_two_ranks, "the shapes disagree: a1 (4, 2)"),
        (half_a_glora, f"{MIDDLE}: b2 is missing"),
        (oft_that_is_not_square, "oft_blocks (4, 8, 7); expected blocks (k, b, b)"),
        (oft_of_another_width, f"{MIDDLE} changes a weight of shape (40, 96)"),
        (rescale_alone, f"{MIDDLE}: oft_blocks is missing"),
        (rescale_of_another_width, "rescale (95, 1); expected blocks (k, b, b)"),
        (boft_of_odd_blocks, "oft_blocks (2, 32, 3, 3); expected blocks (k, b, b)"),
        (norm_of_two_dimensions, "norm1.w_norm has shape (96, 1); expected one dimension"),
        (nan_in_a_bias, f"{MIDDLE}.diff_b holds NaN or infinite values"),
        (full, "lora_unet_mid_block_attentions_0_proj_in changes a weight of shape (4, 4)"),
        (hada_of_two_ranks, "the shapes disagree: hada_w1_a (4, 2), hada_w1_b (3, 4)"),
        (tucker_of_two_ranks, "expected w_a (m, r) and w_b (r, n) of both halves"),
        (half_a_kronecker_factor, f"{MIDDLE}: lokr_w2_b is missing"),
        (no_second_kronecker_factor, f"{MIDDLE}: lokr_w2 is missing"),
        (kronecker_of_two_ranks, "lokr_w2_a (4, 2), lokr_w2_b (3, 4); expected w1 (a, b)"),
        (flat_difference, "diff (4,); expected 2 or 4 dimensions"),
        (two_formats, f"{NAME}: parts of LoRA and LoHa; expected those of one format"),
        (ia3_without_its_side, f"{MIDDLE}: on_input is missing"),
        (ia3_of_another_width, f"{MIDDLE}: 95 values for the input"),
        (peft_ia3_of_either_side, f"{MIDDLE}: ia3_l (1, 96, 1, 1) may be of the input or of the output"),
        (something_else, "a textual inversion embedding, which goes into the folder embeddings"),
    ],
)
def test_wrong_adapters(
    files: Files, tmp_path: Path, refused: Callable[..., str], damage: Callable[[State], None], expected: str
) -> None:
    state = load_file(files.lora)
    damage(state)
    save_file(state, tmp_path / "bad.safetensors")
    message = refused(tmp_path / "bad.safetensors", None, None, "--method", "copy")
    assert "bad.safetensors" in message
    assert expected in message


def test_peft_configuration_that_is_no_json(files: Files, tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    assert "no adapter in this folder" in refused(lora=folder)
    builders.save_lora(folder / "adapter_model.safetensors", files.deltas, "peft")
    for content in (b"{", b"[]", b"\xff\xfe\x00"):
        (folder / "adapter_config.json").write_bytes(content)
        assert "adapter_config.json" in refused(lora=folder)
    for alpha in (b'"many"', b"null", b"1e300", b"1" + b"0" * 400):
        (folder / "adapter_config.json").write_bytes(b'{"lora_alpha": ' + alpha + b"}")
        assert "expected a number" in refused(lora=folder)
