"""LoRA-X (arXiv 2501.16559, section 4): keep what lies in the target weight's leading singular subspace."""

from __future__ import annotations

from lorax.adapter import LowRank
from lorax.methods.bases import Bases, from_factors
from lorax.subspace.signs import aligned


def move(dW: LowRank, bases: Bases) -> tuple[LowRank | None, str]:
    """Equal shapes: dW_t = U~_t U~_t^T dW_s V~_t V~_t^T. Unequal shapes: the source's side is carried by the least-squares map.

    That map is P = argmin ||U~_s - P U~_t||_F = U~_s U~_t^T (of least norm), so P^T dW_s = U~_t U~_s^T dW_s, which is already in
    the target's subspace; likewise for V.
    """
    if bases.whole:
        return dW, "copied, since the kept rank is the whole side"
    B, A = dW.up.double(), dW.down.double()
    U_t, V_t = bases.target.leading(bases.r)
    if bases.same_shape:
        return from_factors(dW, U_t @ (U_t.mT @ B), (A @ V_t) @ V_t.mT), f"projected at rank {bases.r}"
    U_s, V_s = aligned(*bases.source.leading(bases.r))
    U_t, V_t = aligned(U_t, V_t)
    return from_factors(dW, U_t @ (U_s.mT @ B), (A @ V_s) @ V_t.mT), f"carried by the least-squares map at rank {bases.r}"
