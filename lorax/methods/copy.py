"""The plain copy to the matched layer: the baseline of every other method, and between relatives the one to beat."""

from __future__ import annotations

from lorax.low_rank import LowRank
from lorax.methods.weight_pair import Bases


def move(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    if not bases.same_shape:
        return None, f"{bases.difference}, so it cannot be copied"
    return dW, "copied"
