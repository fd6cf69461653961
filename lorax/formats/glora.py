"""GLoRA (arXiv 2306.07967) in LyCORIS' form: a low-rank matrix, and another one that is applied to the base's weight.

LyCORIS once swapped the factors. Old: dW = b2 b1 + (W a2) a1. New: dW = s (b1 b2 + (W a1) a2).
"""

import math
from collections.abc import Sequence

import torch

from lorax.formats import parts
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "GLoRA"
ON_BASE = True
LOW_RANK = False
PARTS = NEW = ("a1", "a2", "b1", "b2")  # a's up, a's down, b's up and b's down
OLD = ("a2", "a1", "b2", "b1")
SUFFIXES = {f".{part}.weight": part for part in PARTS}


def check(where: str, shapes: Shapes) -> None:
    parts.require(where, shapes, *PARTS)
    if any(len(shapes[part]) not in (2, 4) or 0 in shapes[part] for part in PARTS) or not _fits(shapes, _factors(shapes)):
        expected = (
            "a1 (n, r), a2 (r, n), b1 (m, r) and b2 (r, n[, kh, kw]), or the old a1 (r, n), a2 (n, r), b1 (r, n) and b2 (m, r)"
        )
        raise parts.fail(where, shapes, expected)


def _fits(shapes: Shapes, factors: Sequence[str]) -> bool:
    a_up, a_down, b_up, b_down = (shapes[part] for part in factors)
    flat = all(size == 1 for shape in (a_up, a_down, b_up) for size in shape[2:])
    return flat and a_up[1] == a_down[0] == b_up[1] == b_down[0] and a_up[0] == a_down[1] == b_down[1]


def _is_old(shapes: Shapes) -> bool:
    """Tell whether the layout is old. If the shapes fit both, the rank tells: it is no larger than a side. If equal: old."""
    old, new = (_fits(shapes, factors) for factors in (OLD, NEW))
    return shapes["a1"][0] <= shapes["a1"][1] if old == new else old


def _factors(shapes: Shapes) -> Sequence[str]:
    return OLD if _is_old(shapes) else NEW


def extent(shapes: Shapes) -> Extent:
    *_, up, down = _factors(shapes)
    return Extent(shapes[up][0], math.prod(shapes[down][1:]))


def rank(shapes: Shapes) -> int:
    return shapes[_factors(shapes)[1]][0]


def decode(layer: Layer) -> LowRank:
    """Return dW = [b_up, W a_up] [b_down; a_down], the second pair for each kernel position. A1111 reads only the old layout."""
    shapes = layer.shapes
    a_up, a_down, b_up, b_down = (layer.tensors[part].flatten(1) for part in _factors(shapes))
    W = layer.weight()
    W = W.reshape(*W.shape[:2], -1)
    up = torch.cat([b_up, torch.einsum("oix,ij->ojx", W, a_up).flatten(1)], 1)
    down = torch.cat([b_down, torch.einsum("ji,xy->jxiy", a_down, torch.eye(W.shape[2])).flatten(2).flatten(0, 1)])
    scale = 1.0 if _is_old(shapes) else layer.scale(len(a_down))
    return LowRank(up, down, scale) if up.shape[1] < min(len(up), down.shape[1]) else LowRank.of(up @ down, scale)
