"""Fixes the signs of singular vectors, which a decomposition leaves open."""

from __future__ import annotations

import torch

from lorax.subspace.spectral import Decomposition


def aligned(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """U (m, r) and V (n, r) with pairs (u_i, v_i) flipped such that the entry of u_i with the largest magnitude is positive."""
    rows = U.abs().argmax(0, keepdim=True)
    sign = torch.where(U.gather(0, rows) < 0, -1.0, 1.0).to(U)
    return U * sign, V * sign


def basis(of: Decomposition, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """U~ (m, r) and V~ (n, r), float64, in which a LoRA-X adapter is trained. They can be computed again elsewhere."""
    return aligned(*of.leading(r))
