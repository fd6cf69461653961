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
    if bases.same_shape:
        up, down = bases.target.project(dW.up, bases.r, 0), bases.target.project(dW.down.mT, bases.r, 1)
        return from_factors(dW, up, down.mT), f"projected at rank {bases.r}"
    U_s, V_s = aligned(*bases.source.leading(bases.r))
    U_t, V_t = aligned(*bases.target.leading(bases.r))
    up, down = U_t @ (U_s.mT @ dW.up.double()), (dW.down.double() @ V_s) @ V_t.mT
    return from_factors(dW, up, down), f"carried by the least-squares map at rank {bases.r}"
