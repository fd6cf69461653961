"""Copy or project, decided for each layer by the share of the delta that a projection would keep.

The similarity of a component's layers judges the pair of bases as a whole. The share of the adapter that the target has already
decides how strongly the adapter is applied.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lorax.low_rank import LowRank
from lorax.methods import copy, lorax
from lorax.methods.weight_pair import WeightPair
from lorax.reasons import Reason, Why

# Share of the delta that a projection must keep to be chosen. An adapter trained inside the subspace keeps nearly all of itself;
# an ordinary LoRA keeps a third to two thirds, and what a projection would drop of it is worth more than the projection.
INSIDE = 0.95
# Median similarity of a pair of bases from which they count as relatives. Chance is 0; fine-tunes measure near 0.9.
RELATED = 0.5
# Share of the delta that the target has already, from which it is left out. Chosen on the pairs of docs/findings.md ("What the
# target already has"): below it, a copy was as good or better.
OVERLAP = 0.15
# Share from which nothing worth writing is left, as if the adapter was merged into the target.
WHOLE = 0.95


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
    """Copy a layer that is not measured, since no measured layer was projected: an adapter is of one kind throughout."""
    if not pair.same_shape:
        return None, pair.shapes_differ(Why.NOT_BY_AUTO)
    return dW, Reason(Why.COPIED_AS_MEASURED)


def median(similarities: Sequence[float | None]) -> float | None:
    """Return the median similarity of two bases' layers; None if no layers are comparable.

    A pair of unequal shapes (None) counts as alike by chance: relatives differ in blocks, not in widths.
    """
    if all(similarity is None for similarity in similarities):
        return None
    return statistics.median(similarity or 0.0 for similarity in similarities)


def are_related(similarity: float | None) -> bool:
    """Tell whether bases with this median similarity are relatives."""
    return similarity is not None and similarity >= RELATED


def strength(overlap: float) -> float:
    """Return the strength at which an adapter is applied to a target that has the share ``overlap`` of it; 0: not at all."""
    if overlap >= WHOLE:
        return 0.0
    return 1 - overlap if overlap >= OVERLAP else 1.0
