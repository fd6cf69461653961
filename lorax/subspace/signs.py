"""Fixes the signs of singular vectors, which a decomposition leaves open."""

from __future__ import annotations

import torch

from lorax.subspace.spectral import Decomposition


def aligned(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U (m, r) and V (n, r) with pairs (u_i, v_i) flipped so that the largest entry of u_i by magnitude is positive."""
    rows = U.abs().argmax(0, keepdim=True)
    sign = torch.where(U.gather(0, rows) < 0, -1.0, 1.0).to(U)
    return U * sign, V * sign


def basis(of: Decomposition, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U~ (m, r) and V~ (n, r), float64, the reproducible basis in which a LoRA-X adapter is trained."""
    return aligned(*of.leading(r))
