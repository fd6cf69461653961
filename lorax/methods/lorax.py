"""LoRA-X (arXiv 2501.16559, section 4): keep what lies in the target weight's leading singular subspace."""

from __future__ import annotations

import torch

from lorax.low_rank import LowRank
from lorax.methods.weight_pair import Bases, from_factors
from lorax.subspace.signs import aligned


def move(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    """dW_t = U~_t U~_t^T dW_s V~_t V~_t^T; a side of unequal sizes is first carried by the least-squares map.

    That map is P = argmin ||U~_s - P U~_t||_F = U~_s U~_t^T (of least norm), so P^T dW_s = U~_t U~_s^T dW_s, which is already in
    the target's subspace; likewise for V.
    """
    if bases.whole:
        return dW, "copied, since the kept rank is the whole side"
    up, down = _carried(dW.up, bases, 0), _carried(dW.down.mT, bases, 1)
    how = "projected" if bases.same_shape else "carried by the least-squares map"
    return from_factors(dW, up, down.mT), f"{how} at rank {bases.r}"


def _carried(X: torch.Tensor, bases: Bases, side: int) -> torch.Tensor:
    """The factor X of the delta's outputs (side 0) or inputs (side 1)."""
    if bases.source.shape[side] == bases.target.shape[side]:
        return bases.target.project(X, bases.r, side)
    Q_s, Q_t = (aligned(*base.leading(bases.r))[side] for base in (bases.source, bases.target))
    return Q_t @ (Q_s.mT @ X.double())
