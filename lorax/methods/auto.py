"""Copies or projects each layer, by the share of the delta that a projection keeps.

The similarity of a component's layers tells whether the bases are related. The share of the adapter that the target has already
decides on the adapter's strength.
"""

import statistics
from collections.abc import Sequence

from lorax.low_rank import LowRank
from lorax.methods import copy, lorax
from lorax.methods.weight_pair import WeightPair
from lorax.reasons import Reason, Why

# Share of the delta from which a projection is chosen. Adapters that were trained in the subspace keep nearly all of themselves;
# ordinary LoRAs keep a third to two thirds, and lose more by a projection than they gain.
INSIDE = 0.95
RELATED = 0.5  # median similarity from which bases count as related; chance is 0, and fine-tunes are near 0.9
# Shares of the adapter in the target: up to the first it is copied whole, which was as good or better (docs/findings.md); from
# the second on, what the target has is left out. In between a growing part of it is: nothing jumps where a LoRA was trained for
# longer, by which its share in the same target falls.
LITTLE, MUCH = 0.1, 0.15
WHOLE = 0.95  # share of the adapter in the target from which nothing is moved, as if the adapter was merged into the target


def move(dW: LowRank, pair: WeightPair) -> tuple[LowRank | None, Reason]:
    """Return the projection if it keeps INSIDE of the delta, else the copy."""
    if not pair.same_shape:
        return None, pair.shapes_differ(Why.NOT_BY_AUTO)
    if pair.keeps_all:
        return lorax.move(dW, pair)
    if pair.agree:
        return dW, Reason(Why.COPIED_SAME_WEIGHTS)
    projected, _ = lorax.move(dW, pair)
    norm = dW.norm()
    share = projected.norm() / norm if projected is not None and norm > 0 else 0.0
    if share >= INSIDE:
        return projected, Reason(Why.PROJECTED_INSIDE, {"rank": pair.r, "share": share})
    moved, _ = copy.move(dW, pair)
    return moved, Reason(Why.COPIED_NOT_PROJECTED, {"share": share})


def move_unsampled(dW: LowRank, pair: WeightPair) -> tuple[LowRank | None, Reason]:
    """Copy a layer that was not measured. No measured layer was projected, and an adapter's layers are all of one kind."""
    if not pair.same_shape:
        return None, pair.shapes_differ(Why.NOT_BY_AUTO)
    return dW, Reason(Why.COPIED_AS_MEASURED)


def median(similarities: Sequence[float | None]) -> float | None:
    """Return the median similarity of two bases' layers; None if all are. Otherwise None, for unequal shapes, counts as 0."""
    if all(similarity is None for similarity in similarities):
        return None
    return statistics.median(similarity or 0.0 for similarity in similarities)


def are_related(similarity: float | None) -> bool:
    """Tell whether bases with this median similarity are related."""
    return similarity is not None and similarity >= RELATED


def strength(overlap: float) -> float:
    """Return the strength of an adapter for a target that already has the share ``overlap`` of it; 0 if it is not moved."""
    if overlap >= WHOLE:
        return 0.0
    return 1 - overlap * min(1.0, max(0.0, (overlap - LITTLE) / (MUCH - LITTLE)))
