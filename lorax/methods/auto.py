"""Copy or project, decided per layer by what share of the delta a projection would keep.

How similar the layers of a component are judges the pair of bases as a whole, and how much of the adapter's delta the target has
already decides how strongly it is applied.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lorax.low_rank import LowRank
from lorax.methods import copy, lorax
from lorax.methods.weight_pair import Bases

# An adapter trained inside the subspace keeps nearly all of itself; an ordinary LoRA keeps a third to two thirds, and the part
# that a projection would drop is worth more than the projection.
INSIDE = 0.95
# Median similarity of a pair of bases from which they count as relatives. Chance is 0; fine-tunes measure near 0.9.
RELATED = 0.5
# Share of the delta that the target has already, from which on it is left out. Chosen on the pairs of docs/findings.md ("What the
# target already has"): below it, a copy was as good or better.
OVERLAP = 0.15
# Share from which on nothing worth writing is left, as where the adapter was merged into the target.
WHOLE = 0.95

DIFFERENT = "{}; name lorax to try the least-squares map"


def move(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    if not bases.same_shape:
        return None, DIFFERENT.format(bases.difference)
    if bases.whole:
        return lorax.move(dW, bases)
    if bases.agree:
        return dW, "copied, since the weights are the same"
    projected, how = lorax.move(dW, bases)
    norm = dW.norm()
    survives = projected.norm() / norm if projected is not None and norm > 0 else 0.0
    if survives >= INSIDE:
        return projected, f"{how}: {survives:.0%} of the delta lies in the target's subspace"
    moved, _ = copy.move(dW, bases)
    return moved, f"copied: a projection would keep only {survives:.0%} of the delta"


def copied(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    """The same where none of the layers that were measured was projected: an adapter is of one kind throughout."""
    if not bases.same_shape:
        return None, DIFFERENT.format(bases.difference)
    return dW, "copied, as the layers that were measured"


def judge(similarities: Sequence[float | None]) -> str | None:
    """Why bases whose paired layers have these similarities are not relatives, or None when they are.

    A pair of unequal shapes (None) counts as alike by chance: relatives differ in blocks, not in widths.
    """
    if all(similarity is None for similarity in similarities):
        return "no layers are comparable"
    median = statistics.median(similarity or 0.0 for similarity in similarities)
    return None if median >= RELATED else f"the median similarity of their layers is {median:.2f}, chance is 0"


def strength(overlap: float) -> float:
    """At which the adapter is applied, when the target's difference from the source already holds ``overlap`` of its delta.

    0: not at all, since the target has it already.
    """
    if overlap >= WHOLE:
        return 0.0
    return 1 - overlap if overlap >= OVERLAP else 1.0
