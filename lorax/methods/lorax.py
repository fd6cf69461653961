"""LoRA-X (arXiv 2501.16559, section 4): keep what lies in the target weight's leading singular subspace."""

import torch

from lorax.low_rank import LowRank
from lorax.methods.weight_pair import WeightPair, from_factors
from lorax.reasons import Reason, Why
from lorax.subspace import aligned


def move(dW: LowRank, pair: WeightPair) -> tuple[LowRank | None, Reason]:
    """Return dW_t = U~_t U~_t^T dW_s V~_t V~_t^T. If the sizes of a side differ, the least-squares map is applied to it instead.

    That map is P = argmin ||U~_s - P U~_t||_F = U~_s U~_t^T (of least norm), so P^T dW_s = U~_t U~_s^T dW_s is in the target's
    subspace; likewise for V.
    """
    if pair.keeps_all:
        return dW, Reason(Why.COPIED_WHOLE)
    up, down = _carried(dW.up, pair, 0), _carried(dW.down.mT, pair, 1)
    kind = Why.PROJECTED if pair.same_shape else Why.CARRIED
    return from_factors(dW, up, down.mT), Reason(kind, {"rank": pair.r})


def _carried(X: torch.Tensor, pair: WeightPair, side: int) -> torch.Tensor:
    """Return the factor X of the delta's outputs (side 0) or inputs (side 1), carried to the target."""
    if pair.source.shape[side] == pair.target.shape[side]:
        return pair.target.project(X, pair.r, side)
    Q_s, Q_t = (aligned(*weight.leading(pair.r))[side] for weight in (pair.source, pair.target))
    return Q_t @ (Q_s.mT @ X.double())
