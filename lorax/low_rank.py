"""The change of one weight, as a product of two factors."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class LowRank:
    """A delta dW = scale * up @ down, which is never multiplied out.

    ``up``: float32 (m, k); ``down``: float32 (k, n). For a convolution, n is in * kh * kw.
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, dW: torch.Tensor, scale: float = 1.0) -> "LowRank":
        """Return the delta of a dense float32 matrix (m, n), as its product with the identity of the shorter side."""
        one = _identity(min(dW.shape), "cpu")
        return cls(dW, one, scale) if dW.shape[1] <= dW.shape[0] else cls(one, dW, scale)

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def to(self, device: torch.device | str) -> "LowRank":
        return LowRank(_on(self.up, device), _on(self.down, device), self.scale)

    def times(self, factor: float) -> "LowRank":
        return LowRank(self.up, self.down, factor * self.scale)

    def zero(self) -> "LowRank":
        """Return a delta of 0 with factors of these sizes."""
        return LowRank(torch.zeros(self.up.shape), torch.zeros(self.down.shape), self.scale)

    def norm(self) -> float:
        """Return ||dW||_F, from the Gram matrices (k, k) of the factors in float64."""
        up, down = self.up.double(), self.down.double()
        return abs(self.scale) * math.sqrt(max(0.0, ((up.mT @ up) * (down @ down.mT)).sum().item()))

    def compressed(self, rank: int | None) -> "tuple[LowRank, float]":
        """Return the best approximation of at most ``rank``, and its error relative to ||dW||_F.

        Two thin QR decompositions leave the SVD of a core (k, k). The delta itself is returned if it needs no approximation.
        """
        if rank is None or self.rank <= rank:
            return self, 0.0
        q_up, r_up = torch.linalg.qr(self.up.double())
        q_down, r_down = torch.linalg.qr(self.down.double().mT)
        u, s, vh = torch.linalg.svd(r_up @ r_down.mT, full_matrices=False)
        total = s.square().sum()
        error = (s[rank:].square().sum() / total).sqrt().item() if total > 0 else 0.0
        root = s[:rank].sqrt()
        up, down = (q_up @ u[:, :rank]) * root, (root[:, None] * vh[:rank]) @ q_down.mT
        return LowRank(up.float(), down.float(), self.scale), error

    def balanced(self) -> "LowRank":
        """Return this delta with factors of equal magnitude near one, which half precision can hold.

        Only powers of two are moved, between the columns of ``up``, the rows of ``down`` and ``scale``, so nothing is rounded.
        """
        up_size, down_size = _largest(self.up, 0), _largest(self.down, 1)
        live = (up_size > 0) & (down_size > 0)
        one = torch.ones_like(up_size)
        shift = torch.where(live, (down_size / up_size).clamp(1e-60, 1e60), one).log2().div(2).round().exp2()
        # A direction with a zero in one factor adds nothing, but its other factor may have any size, and inf * 0 is NaN.
        up, down = self.up * (shift * live).float(), self.down * (live / shift).float()[:, None]
        size = torch.maximum(up_size * shift, down_size / shift)[live].max().item() if live.any() else 1.0
        if 2**-10 <= size <= 2**10:
            return LowRank(up, down, self.scale)
        exponent = round(math.log2(size))
        up, down = (factor.double() / 2.0**exponent for factor in (up, down))
        return LowRank(up.float(), down.float(), self.scale * 4.0**exponent)


@lru_cache(maxsize=32)
def _identity(side: int, device: str) -> torch.Tensor:
    """Return the identity (side, side), which all deltas share: hundreds of dense ones have few sizes."""
    with torch.inference_mode(False):  # whose tensors no training could use later
        return torch.eye(side, device=device)


def _on(factor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    side, width = factor.shape
    is_shared = side == width and factor.device.type == "cpu" and factor is _identity(side, "cpu")
    return _identity(side, str(device)) if is_shared else factor.to(device)


def _largest(factor: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the largest magnitude along ``dim``, float64."""
    return torch.maximum(factor.amax(dim), -factor.amin(dim)).double()
