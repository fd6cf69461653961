"""LoKr (arXiv 2309.14859, section 3.2): the Kronecker product of two matrices, each stored whole or in factors."""

import math

import torch

from lorax.formats import parts
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "LoKr"
ON_BASE = False
LOW_RANK = False
MID = "lokr_t2"
SUFFIXES = {f".{part}": part for part in (*(f"lokr_w{i}{end}" for i in (1, 2) for end in ("", "_a", "_b")), MID)}


def check(where: str, shapes: Shapes) -> None:
    for name in ("lokr_w1", "lokr_w2"):
        if name not in shapes:
            parts.require(
                where, shapes, *(f"{name}_{x}" if any(part.startswith(name) for part in shapes) else name for x in "ab")
            )
    expected = "w1 (a, b) or w1_a (a, r) and w1_b (r, b); w2 (c, d[, kh, kw]) or w2_a (c, r) and w2_b (r, d)"
    expected += ", or with t2 (r, r, kh, kw) w2_a (r, c) and w2_b (r, d)"
    if any(0 in shape for shape in shapes.values()) or not all(_fits(shapes, name) for name in ("lokr_w1", "lokr_w2")):
        raise parts.fail(where, shapes, expected)


def _fits(shapes: Shapes, name: str) -> bool:
    if name in shapes:
        return len(shapes[name]) in (2, 4 if name == "lokr_w2" else 2)
    a, b = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if len(a) != 2 or len(b) != 2:
        return False
    mid = shapes.get(MID) if name == "lokr_w2" else None
    return a[1] == b[0] if mid is None else len(mid) == 4 and mid[:2] == (a[0], b[0])


def extent(shapes: Shapes) -> Extent:
    (a, b), (c, d) = _shape(shapes, "lokr_w1"), _shape(shapes, "lokr_w2")
    return Extent(a * c, b * d)


def _shape(shapes: Shapes, name: str) -> tuple[int, int]:
    if name in shapes:
        return shapes[name][0], math.prod(shapes[name][1:])
    kernel = shapes.get(MID, ())[2:] if name == "lokr_w2" else ()
    return shapes[f"{name}_a"][1 if kernel else 0], shapes[f"{name}_b"][1] * math.prod(kernel)


def rank(shapes: Shapes) -> int | None:
    """Return the rank of the second matrix's factors, else of the first's (A1111, network_lokr.py); None if both are whole."""
    return next((shapes[part][0] for part in ("lokr_w2_b", "lokr_w1_b") if part in shapes), None)


def decode(layer: Layer) -> LowRank:
    """Return dW = kron(B1 A1, B2 A2) = kron(B1, B2) kron(A1, A2), whose rank is the product of both."""
    (up_1, down_1), (up_2, down_2) = (_factors(layer, name) for name in ("lokr_w1", "lokr_w2"))
    scale = layer.scale(rank(layer.shapes))
    return LowRank(_kron(up_1, up_2), _kron(down_1, down_2), scale)


def _kron(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The Kronecker product of copies: ``torch.kron`` takes no transposed view, not even of a vector."""
    return torch.kron(*(factor.clone(memory_format=torch.contiguous_format) for factor in (first, second)))


def _factors(layer: Layer, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if name in layer.tensors:
        return parts.whole(layer.tensors[name].flatten(1))
    up, down = layer.tensors[f"{name}_a"], layer.tensors[f"{name}_b"]
    if name == "lokr_w2" and MID in layer.tensors:
        return parts.fold(up.mT, layer.tensors[MID], down)
    return parts.shortest(up, down)
