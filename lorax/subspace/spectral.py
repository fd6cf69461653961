"""Computes the leading singular subspaces of a weight, and their similarity between two weights."""

from dataclasses import dataclass

import torch

from lorax.subspace.gram import Gram
from lorax.subspace.lazy import once
from lorax.subspace.rank import QUARTER, RankRule

SMALL = 256  # singular values up to which float64 costs next to nothing
TOLERANCE = 5e-4  # error of a projection in float32 above which float64 is used
# Share of the largest singular value below which directions from the Gram matrix, whose condition is squared, are unreliable.
FLOORS = {torch.float32: 1e-3, torch.float64: 1e-4}


@dataclass(frozen=True)
class Basis:
    """The leading singular vectors of a weight: ``near`` (p, r) of its smaller side, and the far ones of its larger side.

    The far vectors are A near / S, with A (far, p) in ``tall`` and the singular values S (r,), or ``far`` (far, r) if that
    formula is not exact enough.
    """

    near: torch.Tensor
    S: torch.Tensor
    tall: torch.Tensor
    far: torch.Tensor | None = None

    @classmethod
    def of(cls, W: torch.Tensor, near: torch.Tensor, S: torch.Tensor, far: torch.Tensor | None) -> "Basis":
        """Return the basis of W (m, n), as stored, from vectors that were computed earlier."""
        tall = (W.mT if W.shape[0] <= W.shape[1] else W).to(near.dtype)
        return cls(near.to(W.device), S.to(W.device), tall, None if far is None else far.to(W.device))

    def project_near(self, X: torch.Tensor) -> torch.Tensor:
        """Return the columns of X (p, k) projected on the near vectors."""
        X = X.to(self.near)
        return self.near @ (self.near.mT @ X)

    def project_far(self, X: torch.Tensor) -> torch.Tensor:
        """Return the columns of X (far, k) projected on the far vectors, which are not formed, since they may be large."""
        X = X.to(self.near)
        if self.far is not None:
            return self.far @ (self.far.mT @ X)
        inside = self.near.mT @ (self.tall.mT @ X) / self.S[:, None].square()
        return self.tall @ (self.near @ inside)

    def far_vectors(self) -> torch.Tensor:
        """Return the far vectors (far, r)."""
        return self.far if self.far is not None else (self.tall @ self.near).div_(self.S)


class Decomposition:
    """The decomposition W = U diag(S) V^T for W (m, n), with p = min(m, n) singular values, computed when needed.

    The first method that is exact enough is used: eigenvectors of the Gram matrix in float32 (for larger weights), in float64, or
    ``torch.linalg.svd`` in float64 for directions near the floor. ``basis``: one that was computed earlier.
    """

    def __init__(self, W: torch.Tensor, basis: Basis | None = None) -> None:
        self.stored, self.shape, self.p = W, W.shape, min(W.shape)
        self._wide = W.shape[0] <= W.shape[1]
        self._last = basis

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first attempt."""
        return torch.float64 if self.p <= SMALL else torch.float32

    @once
    def _first(self) -> Gram:
        return Gram(self.stored.to(self.dtype))

    @once
    def _double(self) -> Gram:
        return self._first if self.dtype is torch.float64 else Gram(self.stored.double())

    @property
    def has_worked(self) -> bool:
        """Whether anything was decomposed."""
        return not {"_first", "_double"}.isdisjoint(vars(self))

    @property
    def S(self) -> torch.Tensor:
        """All singular values (p,), largest first."""
        return self._first.S

    def rank(self, rule: RankRule) -> int:
        """Return the rule's rank. Singular values are computed only if the rule needs them."""
        fixed = rule.of_size(self.p)
        return rule.of(self.S) if fixed is None else fixed

    def project(self, X: torch.Tensor, r: int, side: int) -> torch.Tensor:
        """Return U~ U~^T X for X (m, k) if ``side`` is 0, or V~ V~^T X for X (n, k) if it is 1, for the rank r."""
        if (basis := self.basis_of(r)) is None:
            basis = self._last = self._find(r)
        return basis.project_near(X) if (side == 0) == self._wide else basis.project_far(X)

    def basis_of(self, r: int) -> Basis | None:
        """Return the basis of the last projection if it has this rank, else None."""
        return self._last if self._last is not None and len(self._last.S) == r else None

    def leading(self, r: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the r leading singular vectors U~ (m, r) and V~ (n, r), float64, each exact by itself."""
        return self._sides(self._in_double(r))

    def spanning(self, r: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U~ (m, r) and V~ (n, r) that span the leading subspaces, up to rounding in ``dtype``."""
        if self._above_floor(self._first, r):
            return self._sides(Basis(self._first.near[:, :r], self.S[:r], self._first.tall))
        return self.leading(r)

    def _find(self, r: int) -> Basis:
        if self.dtype is torch.float32 and r < self.p and self._above_floor(self._first, r):
            near, error = self._first.refined(r)
            if error <= TOLERANCE:
                return Basis(near, self.S[:r], self._first.tall)
        return self._in_double(r)

    def _in_double(self, r: int) -> Basis:
        gram = self._double
        S, near = gram.S[:r], gram.near[:, :r]
        if self._above_floor(gram, r):
            return Basis(near, S, gram.tall)
        try:
            far, _, nearh = torch.linalg.svd(gram.tall, full_matrices=False)
            return Basis(nearh.mT[:, :r], S, gram.tall, far[:, :r])
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined] # gesdd fails to converge on some nearly orthogonal matrices
            return Basis(near, S, gram.tall, torch.linalg.qr(gram.tall @ near).Q)

    def _sides(self, basis: Basis) -> tuple[torch.Tensor, torch.Tensor]:
        return (basis.near, basis.far_vectors()) if self._wide else (basis.far_vectors(), basis.near)

    @staticmethod
    def _above_floor(gram: Gram, r: int) -> bool:
        return bool(gram.S[r - 1] > FLOORS[gram.tall.dtype] * gram.S[0])


def aligned(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U (m, r) and V (n, r) with pairs (u_i, v_i) flipped so that the largest entry of u_i by magnitude is positive."""
    rows = U.abs().argmax(0, keepdim=True)
    sign = torch.where(U.gather(0, rows) < 0, -1.0, 1.0).to(U)
    return U * sign, V * sign


def basis(of: Decomposition, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U~ (m, r) and V~ (n, r), float64, the reproducible basis in which a LoRA-X adapter is trained."""
    return aligned(*of.leading(r))


def similarity(source: Decomposition, target: Decomposition) -> float | None:
    """Return the similarity of two weights' leading subspaces: 1 if they are equal, 0 by chance; None for unequal shapes.

    It is the smaller of both sides' (Phi - r/n) / (1 - r/n), with Phi = ||U~_s^T U~_t||_F^2 / r (LoRA-X, arXiv 2501.16559), r a
    quarter of min(m, n), and n the size of the side.
    """
    if source.shape != target.shape:
        return None
    r = QUARTER.of_size(source.p)
    assert r is not None
    sides = []
    for s, t in zip(source.spanning(r), target.spanning(r), strict=True):
        n = s.shape[0]
        phi = (s.mT @ t.to(s)).square().sum().item() / r
        sides.append((phi - r / n) / (1 - r / n) if n > r else 1.0)
    return min(sides)
