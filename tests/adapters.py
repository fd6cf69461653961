"""Layers of adapters of every format, each with its delta as LyCORIS computes it, or dense and by hand where LyCORIS cannot say.

A recipe takes the base's weight and returns the layer's tensors, part -> tensor, and dW in the weight's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lycoris.modules import boft, diag_oft, dylora, glora, ia3, locon, loha, lokr

from tests.builders import State

Made = tuple[State, torch.Tensor]
Recipe = Callable[[torch.Tensor, torch.Generator], Made]
RANK, ALPHA = 4, 2.0


def module(weight: torch.Tensor) -> torch.nn.Module:
    """What an adapter sits on."""
    out, inside, *kernel = weight.shape
    made: torch.nn.Module = torch.nn.Conv2d(inside, out, kernel) if kernel else torch.nn.Linear(inside, out)
    made.weight.data.copy_(weight)
    return made


def lycoris(kind: type, **options: Any) -> Recipe:
    """Random values in all its parameters; the file is what it saves, and the delta what its forward pass adds to the weight.

    What LyCORIS 4.1.3 merges (``get_diff_weight``) of LoHa and LoKr is that times alpha / rank once more.
    """

    def make(weight: torch.Tensor, made: torch.Generator) -> Made:
        return randomised(kind("x", module(weight), **{"lora_dim": RANK, "alpha": ALPHA} | options), weight, made)

    return make


def randomised(layer: Any, weight: torch.Tensor, made: torch.Generator) -> Made:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=made) / parameter.shape[-1] ** 0.5)
        squared = isinstance(layer, loha.LohaModule | lokr.LokrModule)
        dW = layer.get_weight(weight.shape) if squared else layer.get_diff_weight(shape=weight.shape)[0].clone()
    return {part: tensor.detach().clone() for part, tensor in layer.state_dict().items()}, dW


def dora(kind: type, **options: Any) -> Recipe:
    """DoRA with the norms that A1111 takes: of each input, which is not LyCORIS' default."""

    def make(weight: torch.Tensor, made: torch.Generator) -> Made:
        layer = kind("x", module(weight), lora_dim=RANK, alpha=ALPHA, weight_decompose=True, wd_on_out=False, **options)
        tensors, dW = randomised(layer, weight, made)
        with torch.no_grad():
            return tensors, layer.apply_weight_decompose(weight + dW) - weight

    return make


def dora_on_the_output(weight: torch.Tensor, made: torch.Generator) -> Made:
    """A1111 divides by the norms of the inputs all the same (network.py, apply_weight_decompose)."""
    tensors, dW = lycoris(locon.LoConModule)(weight, made)
    lengths = torch.rand(weight.shape[0], *(1 for _ in weight.shape[1:]), generator=made)
    changed = (weight + dW).double()
    norms = changed.pow(2).sum([axis for axis in range(weight.dim()) if axis != 1], keepdim=True).sqrt()
    return tensors | {"dora_scale": lengths}, changed / norms * lengths - weight


def old_glora(weight: torch.Tensor, made: torch.Generator) -> Made:
    """W + b2 b1 + (W a2) a1 (A1111, network_glora.py, which takes no notice of alpha)."""
    m, n, *kernel = weight.shape
    a1, a2, b2 = (torch.randn(shape, generator=made) / n**0.5 for shape in ((RANK, n), (n, RANK), (m, RANK)))
    b1 = torch.randn(RANK, n, *kernel, generator=made) / n**0.5
    dW = torch.tensordot(b2, b1, 1) + torch.einsum("oi...,ij->oj...", weight, a2 @ a1)
    parts = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(ALPHA)}
    return parts, dW


def old_oft(weight: torch.Tensor, made: torch.Generator) -> Made:
    """The rotations themselves, transposed when they are applied (A1111, network_oft.py)."""
    blocks = torch.linalg.qr(torch.randn(len(weight) // 8, 8, 8, generator=made)).Q.contiguous()
    return {"oft_diag": blocks}, torch.tensordot(torch.block_diag(*blocks).T, weight, 1) - weight


def dylora_of(block: int) -> Recipe:
    """Saved as a LoRA of the full rank. LyCORIS applies alpha / blocks to that; hosts, as to any LoRA, alpha / rank."""

    def make(weight: torch.Tensor, made: torch.Generator) -> Made:
        layer = dylora.DyLoraModule("x", module(weight), lora_dim=RANK, alpha=ALPHA, block_size=block)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=made) / parameter.shape[-1] ** 0.5)
            dW, _ = layer.get_diff_weight(rank=RANK - block)
        return {part: tensor.detach().clone() for part, tensor in layer.custom_state_dict().items()}, dW.detach() / block

    return make


def lokr_with_a_whole_second(weight: torch.Tensor, made: torch.Generator) -> Made:
    """The one split that LyCORIS reads and does not choose: kron(A B, W2)."""
    m, n, *kernel = weight.shape
    a, b, w2 = (torch.randn(shape, generator=made) for shape in ((4, 2), (2, 4), (m // 4, n // 4, *kernel)))
    dW = (ALPHA or 2) / 2 * torch.einsum("ab,cd...->acbd...", a @ b, w2).reshape(weight.shape)
    return {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2": w2, "alpha": torch.tensor(ALPHA)}, dW


def full_difference(weight: torch.Tensor, made: torch.Generator) -> Made:
    dW = torch.randn(weight.shape, generator=made)
    return {"diff": dW}, dW


RECIPES: dict[str, Recipe] = {
    "LoCon": lycoris(locon.LoConModule),
    "LoCon, Tucker": lycoris(locon.LoConModule, use_tucker=True),
    "DyLoRA": dylora_of(1),
    "DyLoRA in blocks": dylora_of(2),
    "LoHa": lycoris(loha.LohaModule),
    "LoHa of a rank above the root of a side": lycoris(loha.LohaModule, lora_dim=12),
    "LoHa, Tucker": lycoris(loha.LohaModule, use_tucker=True),
    "LoKr": lycoris(lokr.LokrModule, lora_dim=2, factor=4),
    "LoKr, both in factors": lycoris(lokr.LokrModule, lora_dim=1, factor=8, decompose_both=True),
    "LoKr, the first in factors": lokr_with_a_whole_second,
    "LoKr, whole matrices": lycoris(lokr.LokrModule, full_matrix=True),
    "LoKr, Tucker": lycoris(lokr.LokrModule, lora_dim=2, factor=4, use_tucker=True),
    "LoKr, Tucker, the first in factors": lycoris(lokr.LokrModule, lora_dim=1, factor=8, use_tucker=True, decompose_both=True),
    "full": full_difference,
    "(IA)^3": lycoris(ia3.IA3Module),
    "(IA)^3 on the input": lycoris(ia3.IA3Module, train_on_input=True),
    "GLoRA": lycoris(glora.GLoRAModule),
    "GLoRA of a rank above a side": lycoris(glora.GLoRAModule, lora_dim=12),
    "GLoRA, old": old_glora,
    "OFT": lycoris(diag_oft.DiagOFTModule, lora_dim=8),
    "OFT with a constraint and a rescale": lycoris(diag_oft.DiagOFTModule, lora_dim=8, constraint=0.01, rescaled=True),
    "OFT, old": old_oft,
    "BOFT": lycoris(boft.ButterflyOFTModule, lora_dim=8),
    "BOFT with a constraint and a rescale": lycoris(boft.ButterflyOFTModule, lora_dim=8, constraint=0.01, rescaled=True),
    "DoRA of LoCon": dora(locon.LoConModule),
    "DoRA of LoHa": dora(loha.LohaModule),
    "DoRA of LoKr": dora(lokr.LokrModule, factor=4),
    "DoRA on the output": dora_on_the_output,
}
# What a file of the recipe must have, since LyCORIS chooses another form where a layer is small.
SIGNS: dict[str, tuple[str, ...]] = {
    "LoCon, Tucker": ("lora_mid.weight",),
    "LoHa, Tucker": ("hada_t2",),
    "LoKr": ("lokr_w1", "lokr_w2_a"),
    "LoKr, both in factors": ("lokr_w1_a", "lokr_w2_a"),
    "LoKr, the first in factors": ("lokr_w1_a", "lokr_w2"),
    "LoKr, whole matrices": ("lokr_w1", "lokr_w2"),
    "LoKr, Tucker": ("lokr_w1", "lokr_t2"),
    "LoKr, Tucker, the first in factors": ("lokr_w1_a", "lokr_t2"),
    "OFT with a constraint and a rescale": ("rescale",),
    "BOFT with a constraint and a rescale": ("rescale",),
    "DoRA of LoCon": ("dora_scale",),
    "DoRA of LoHa": ("dora_scale",),
    "DoRA of LoKr": ("dora_scale",),
}
