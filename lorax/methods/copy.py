"""Copies each layer to its pair: the baseline for all other methods."""

from lorax.low_rank import LowRank
from lorax.methods.weight_pair import WeightPair
from lorax.reasons import Reason, Why


def move(dW: LowRank, pair: WeightPair) -> tuple[LowRank | None, Reason]:
    """Return dW_s itself, if the shapes agree."""
    if not pair.same_shape:
        return None, pair.shapes_differ(Why.CANNOT_BE_COPIED)
    return dW, Reason(Why.COPIED)
