"""(IA)^3 (arXiv 2205.05638): a factor for each row or each column of the base's weight.

LyCORIS stores the factor minus 1 in ``weight``, and the side in ``on_input``. PEFT stores the factor in ``ia3_l``, whose shape
tells the side.
"""

import math

import torch

from lorax.errors import LoraxError
from lorax.formats import parts
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "(IA)^3"
ON_BASE = True
LOW_RANK = False
WEIGHT, ON_INPUT, PEFT = "weight", "on_input", "ia3_l"
SUFFIXES = {".on_input": ON_INPUT, ".ia3_l": PEFT, ".weight": WEIGHT}


def check(where: str, shapes: Shapes) -> None:
    if PEFT not in shapes:
        parts.require(where, shapes, WEIGHT)
        if math.prod(shapes[ON_INPUT]) != 1:
            raise parts.fail(where, shapes, "one number in on_input")


def extent(shapes: Shapes) -> Extent:
    return Extent(None, None)


def rank(shapes: Shapes) -> None:
    return None


def decode(layer: Layer) -> LowRank:
    """Return dW = W * w along one side, of any rank. This follows LyCORIS; A1111 fails if w is on a convolution's output."""
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
    """Return the side of PEFT's factors: 0 for outputs, 1 for inputs.

    They are (out, 1) or (1, in) for a linear layer. For a convolution they are (1, out, 1, 1) or (1, in, 1, 1), and only the
    count tells the side. Raises LoraxError if both counts are equal.
    """
    shape = layer.tensors[PEFT].shape
    if len(shape) == 2:
        return int(shape[0] == 1)
    if weight[0] == weight[1]:
        raise LoraxError(
            f"{layer.where}: {PEFT} {tuple(shape)} may be of the input or of the output, as both have {weight[0]} channels. "
            "Such a file cannot be read."
        )
    return int(math.prod(shape) == weight[1])
