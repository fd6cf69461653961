"""Layers of adapters of every format, each with its delta as LyCORIS computes it, or dense and by hand where LyCORIS cannot say.

A recipe takes the base's weight and returns the layer's tensors, part -> tensor, and dW in the weight's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lycoris.modules import locon, loha, lokr

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
        layer = kind("x", module(weight), **{"lora_dim": RANK, "alpha": ALPHA} | options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=made) / parameter.shape[-1] ** 0.5)
            squared = kind in (loha.LohaModule, lokr.LokrModule)
            dW = layer.get_weight(weight.shape) if squared else layer.get_diff_weight(shape=weight.shape)[0].clone()
        return {part: tensor.detach().clone() for part, tensor in layer.state_dict().items()}, dW

    return make


def full_difference(weight: torch.Tensor, made: torch.Generator) -> Made:
    dW = torch.randn(weight.shape, generator=made)
    return {"diff": dW}, dW


RECIPES: dict[str, Recipe] = {
    "LoCon": lycoris(locon.LoConModule),
    "LoCon, Tucker": lycoris(locon.LoConModule, use_tucker=True),
    "LoHa": lycoris(loha.LohaModule),
    "LoHa of a rank above the root of a side": lycoris(loha.LohaModule, lora_dim=12),
    "LoHa, Tucker": lycoris(loha.LohaModule, use_tucker=True),
    "LoKr": lycoris(lokr.LokrModule, factor=4),
    "LoKr, both in factors": lycoris(lokr.LokrModule, lora_dim=1, factor=8, decompose_both=True),
    "LoKr, whole matrices": lycoris(lokr.LokrModule, full_matrix=True),
    "LoKr, Tucker": lycoris(lokr.LokrModule, factor=4, use_tucker=True),
    "full": full_difference,
}
