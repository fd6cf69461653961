"""ProLoRA (arXiv 2506.04244, equations 3 to 5): carry the subspace part and the null-space part, each to the target's own."""

from __future__ import annotations

import torch

from lorax.low_rank import LowRank
from lorax.methods import lorax
from lorax.methods.weight_pair import Bases, from_factors


def move(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    """dW_t = U_tp U_tp^T dW_sp V_tp V_tp^T + U_t0 U_t0^T dW_s0 V_t0 V_t0^T, of twice the adapter's rank.

    dW_sp = U_sp U_sp^T dW_s V_sp V_sp^T and dW_s0 = (I - U_sp U_sp^T) dW_s (I - V_sp V_sp^T).
    """
    if bases.whole or not bases.same_shape:
        return lorax.move(dW, bases)
    (B_p, B_0), (A_p, A_0) = _split(dW, bases)
    return from_factors(dW, torch.cat([B_p, B_0], 1), torch.cat([A_p, A_0])), f"two parts at rank {bases.r}"


def move_with_cross_terms(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    """The same, keeping also what leads from the subspace to the null space and back: the rank stays the adapter's."""
    if bases.whole or not bases.same_shape:
        return lorax.move(dW, bases)
    (B_p, B_0), (A_p, A_0) = _split(dW, bases)
    return from_factors(dW, B_p + B_0, A_p + A_0), f"four parts at rank {bases.r}"


def _split(dW: LowRank, bases: Bases) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """B and A carried within the subspaces, and within the null spaces."""
    B_p, B_0 = _carried(dW.up, bases, 0)
    A_p, A_0 = _carried(dW.down.mT, bases, 1)
    return (B_p, B_0), (A_p.mT, A_0.mT)


def _carried(X: torch.Tensor, bases: Bases, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    inside = bases.source.project(X, bases.r, side)
    outside = X - inside
    return bases.target.project(inside, bases.r, side), outside - bases.target.project(outside, bases.r, side)
