"""ProLoRA (arXiv 2506.04244, equations 3 to 5): carry the parts in the subspace and in the null space to the target's own."""

import torch

from lorax.low_rank import LowRank
from lorax.methods import lorax
from lorax.methods.weight_pair import WeightPair, from_factors
from lorax.reasons import Reason, Why


def move(dW: LowRank, pair: WeightPair) -> tuple[LowRank | None, Reason]:
    """Return dW_t = U_tp U_tp^T dW_sp V_tp V_tp^T + U_t0 U_t0^T dW_s0 V_t0 V_t0^T, of twice the adapter's rank.

    dW_sp = U_sp U_sp^T dW_s V_sp V_sp^T and dW_s0 = (I - U_sp U_sp^T) dW_s (I - V_sp V_sp^T).
    """
    if pair.keeps_all or not pair.same_shape:
        return lorax.move(dW, pair)
    (B_p, B_0), (A_p, A_0) = _split(dW, pair)
    return from_factors(dW, torch.cat([B_p, B_0], 1), torch.cat([A_p, A_0])), Reason(Why.TWO_PARTS, {"rank": pair.r})


def move_with_cross_terms(dW: LowRank, pair: WeightPair) -> tuple[LowRank | None, Reason]:
    """Return dW_t as ``move`` does, with the cross terms between subspace and null space. The rank is the adapter's."""
    if pair.keeps_all or not pair.same_shape:
        return lorax.move(dW, pair)
    (B_p, B_0), (A_p, A_0) = _split(dW, pair)
    return from_factors(dW, B_p + B_0, A_p + A_0), Reason(Why.FOUR_PARTS, {"rank": pair.r})


def _split(dW: LowRank, pair: WeightPair) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return B and A, each carried in the subspace and in the null space."""
    B_p, B_0 = _carried(dW.up, pair, 0)
    A_p, A_0 = _carried(dW.down.mT, pair, 1)
    return (B_p, B_0), (A_p.mT, A_0.mT)


def _carried(X: torch.Tensor, pair: WeightPair, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    inside = pair.source.project(X, pair.r, side)
    outside = X - inside
    return pair.target.project(inside, pair.r, side), outside - pair.target.project(outside, pair.r, side)
