"""The whole difference of the weights, as LyCORIS' ``full`` and extractors without a rank write it."""

import math

from lorax.formats import parts
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "full"
ON_BASE = False
LOW_RANK = False
DIFF = "diff"
SUFFIXES = {".diff": DIFF}


def check(where: str, shapes: Shapes) -> None:
    if len(shapes[DIFF]) not in (2, 4) or 0 in shapes[DIFF]:
        raise parts.fail(where, shapes, "2 or 4 dimensions")


def extent(shapes: Shapes) -> Extent:
    return Extent(shapes[DIFF][0], math.prod(shapes[DIFF][1:]))


def rank(shapes: Shapes) -> None:
    return None


def decode(layer: Layer) -> LowRank:
    return LowRank.of(layer.tensors[DIFF].flatten(1), layer.scale(None))
