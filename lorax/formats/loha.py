"""LoHa (FedPara, arXiv 2108.06098): the elementwise product of two low-rank matrices, or of two Tucker decompositions."""

import math

import torch

from lorax.formats import parts
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "LoHa"
ON_BASE = False
LOW_RANK = False
HALVES = (("hada_w1_a", "hada_w1_b", "hada_t1"), ("hada_w2_a", "hada_w2_b", "hada_t2"))
SUFFIXES = {f".{part}": part for half in HALVES for part in half}


def check(where: str, shapes: Shapes) -> None:
    parts.require(where, shapes, *(part for a, b, _ in HALVES for part in (a, b)))
    expected = "w_a (m, r) and w_b (r, n) of both halves, or with t (r, r, kh, kw) w_a (r, m) and w_b (r, n)"
    for a, b, t in HALVES:
        up, down, mid = shapes[a], shapes[b], shapes.get(t)
        fits = len(up) == len(down) == 2 and 0 not in up + down
        fits = fits and (up[1] == down[0] if mid is None else len(mid) == 4 and mid[:2] == (up[0], down[0]))
        if not fits:
            raise parts.fail(where, shapes, expected)
    if _extent(shapes, 0) != _extent(shapes, 1):
        raise parts.fail(where, shapes, expected)


def extent(shapes: Shapes) -> Extent:
    return _extent(shapes, 0)


def rank(shapes: Shapes) -> int:
    return shapes["hada_w1_b"][0]


def decode(layer: Layer) -> LowRank:
    """Return dW = (B1 A1) * (B2 A2), of rank r^2. Its factors are Khatri-Rao products, unless the whole matrix is smaller."""
    (up_1, down_1), (up_2, down_2) = (_factors(layer, *half) for half in HALVES)
    scale = layer.scale(len(layer.tensors["hada_w1_b"]))
    if len(down_1) * len(down_2) >= min(len(up_1), down_1.shape[1]):
        return LowRank.of((up_1 @ down_1) * (up_2 @ down_2), scale)
    up = (up_1[:, :, None] * up_2[:, None]).flatten(1)
    return LowRank(up, (down_1[:, None] * down_2[None]).flatten(0, 1), scale)


def _factors(layer: Layer, a: str, b: str, t: str) -> tuple[torch.Tensor, torch.Tensor]:
    up, down = layer.tensors[a], layer.tensors[b]
    return parts.fold(up.mT, layer.tensors[t], down) if t in layer.tensors else (up, down)


def _extent(shapes: Shapes, half: int) -> Extent:
    a, b, t = HALVES[half]
    kernel = shapes.get(t, ())[2:]
    return Extent(shapes[a][1 if kernel else 0], shapes[b][1] * math.prod(kernel))
