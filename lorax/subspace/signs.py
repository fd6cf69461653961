"""A fixed sign for singular vectors, which a decomposition leaves open."""

from __future__ import annotations

import torch


def aligned(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip pairs (u_i, v_i) such that the entry of u_i that is largest in magnitude is positive."""
    rows = U.abs().argmax(0, keepdim=True)
    sign = torch.where(U.gather(0, rows) < 0, -1.0, 1.0).to(U)
    return U * sign, V * sign
