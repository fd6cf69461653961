"""The singular value decomposition of one base weight, and how alike the leading subspaces of two weights are."""

from __future__ import annotations

from functools import cached_property

import torch

from lorax.subspace.rank import QUARTER

# Below this share of the largest singular value, the Gram matrix (whose condition is squared) no longer gives directions.
GRAM_FLOOR = 1e-4


class Decomposition:
    """W = U diag(S) V^T for W (m, n), in float64, with p = min(m, n) singular values.

    Singular vectors come from the eigenvectors of the smaller Gram matrix, which is several times faster than a full SVD; where
    directions near the floor are asked for, from ``torch.linalg.svd``.
    """

    def __init__(self, W: torch.Tensor) -> None:
        self.W = W.double()
        self.shape = self.W.shape
        self._wide = self.shape[0] <= self.shape[1]

    @cached_property
    def _gram(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(S, eigenvectors) of the smaller side, largest first."""
        gram = self.W @ self.W.mT if self._wide else self.W.mT @ self.W
        values, vectors = torch.linalg.eigh(gram)
        return values.flip(0).clamp_min(0).sqrt(), vectors.flip(1)

    @cached_property
    def _svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        U, S, Vh = torch.linalg.svd(self.W, full_matrices=False)
        return U, S, Vh.mT

    @property
    def S(self) -> torch.Tensor:
        """All p singular values, largest first."""
        return self._gram[0]

    def leading(self, r: int) -> tuple[torch.Tensor, torch.Tensor]:
        """U~ (m, r) and V~ (n, r): orthonormal columns, the r leading singular vectors."""
        S, vectors = self._gram
        if S[r - 1] <= GRAM_FLOOR * S[0]:
            try:
                U, _, V = self._svd
                return U[:, :r], V[:, :r]
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined] # gesdd fails to converge on some nearly orthogonal matrices
                near = vectors[:, :r]
                far = torch.linalg.qr((self.W.mT if self._wide else self.W) @ near).Q
                return (near, far) if self._wide else (far, near)
        near = vectors[:, :r]
        far = ((self.W.mT if self._wide else self.W) @ near).div_(S[:r])  # in place: on wide layers it is the largest matrix
        return (near, far) if self._wide else (far, near)


def similarity(source: Decomposition, target: Decomposition) -> float | None:
    """How alike two weights' leading subspaces are: 1 the same, 0 as alike as chance makes any two; None for unequal shapes.

    (Phi - r/n) / (1 - r/n) per side, with Phi = ||U~_s^T U~_t||_F^2 / r (LoRA-X, arXiv 2501.16559), r a quarter of min(m, n) and
    n the size of the side; of the two sides, the smaller value.
    """
    if source.shape != target.shape:
        return None
    r = QUARTER.of(source.S)
    sides = []
    for s, t in zip(source.leading(r), target.leading(r), strict=True):
        n = s.shape[0]
        phi = (s.mT @ t).square().sum().item() / r
        sides.append((phi - r / n) / (1 - r / n) if n > r else 1.0)
    return min(sides)
