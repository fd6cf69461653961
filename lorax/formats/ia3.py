"""(IA)^3 (arXiv 2205.05638): every row or every column of the base's weight times a number of its own.

Two spellings: LyCORIS keeps the number less one in ``weight``, and which side it is in ``on_input``; PEFT keeps the number itself
in ``ia3_l``, whose shape tells the side.
"""

from __future__ import annotations

import math

import torch

from lorax.errors import LoraxError
from lorax.formats import parts
from lorax.formats.parts import Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "(IA)^3"
ON_BASE = True
WEIGHT, ON_INPUT, PEFT = "weight", "on_input", "ia3_l"
SUFFIXES = {".on_input": ON_INPUT, ".ia3_l": PEFT, ".weight": WEIGHT}


def check(where: str, shapes: Shapes) -> None:
    if PEFT not in shapes:
        parts.require(where, shapes, WEIGHT)
        if math.prod(shapes[ON_INPUT]) != 1:
            raise parts.fail(where, shapes, "one number in on_input")


def shape(shapes: Shapes) -> tuple[None, None]:
    return None, None


def rank(shapes: Shapes) -> None:
    return None


def decode(layer: Layer) -> LowRank:
    """dW = W * w along one side, of any rank. A1111 fails where w is on a convolution's output; LyCORIS is followed there."""
    W = layer.weight()
    if PEFT in layer.tensors:
        w = layer.tensors[PEFT].flatten() - 1
        axis = _axis(layer, W.shape)
    else:
        w, axis = layer.tensors[WEIGHT].flatten(), int(layer.tensors[ON_INPUT].item() != 0)
    if len(w) != W.shape[axis]:
        side = ("output", "input")[axis]
        raise LoraxError(
            f"{layer.where}: {len(w)} values for the {side}, but the base's weight has the shape {tuple(W.shape)}. "
            "Choose as source the base that the adapter was trained on."
        )
    return LowRank.of((W.transpose(axis, -1) * w).transpose(axis, -1).flatten(1), layer.scale(None))


def _axis(layer: Layer, weight: torch.Size) -> int:
    """A linear layer's is (out, 1) or (1, in); a convolution's is (1, out, 1, 1) or (1, in, 1, 1), told apart by their sizes."""
    shape = layer.tensors[PEFT].shape
    if len(shape) == 2:
        return int(shape[0] == 1)
    if weight[0] == weight[1]:
        raise LoraxError(
            f"{layer.where}: {PEFT} {tuple(shape)} may be of the input or of the output, as both have {weight[0]} channels. "
            "Such a file cannot be read."
        )
    return int(math.prod(shape) == weight[1])
