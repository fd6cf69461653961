"""The leading singular subspaces of one base weight, and how alike those of two weights are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorax.subspace.gram import Gram
from lorax.subspace.lazy import once
from lorax.subspace.rank import QUARTER, RankRule

SMALL = 256  # up to so many singular values, float64 costs next to nothing
TOLERANCE = 5e-4  # error of a projection in float32, from which on it is done in float64
# Below this share of the largest singular value, the Gram matrix (whose condition is squared) no longer gives directions.
FLOORS = {torch.float32: 1e-3, torch.float64: 1e-4}


@dataclass(frozen=True)
class Basis:
    """Leading singular vectors of the smaller side, ``near`` (p, r); those of the other, far side are A near / S.

    ``tall`` is A (far, p), ``S`` (r,). ``far`` (far, r) holds the far vectors where that formula would lose them.
    """

    near: torch.Tensor
    S: torch.Tensor
    tall: torch.Tensor
    far: torch.Tensor | None = None

    @classmethod
    def of(cls, W: torch.Tensor, near: torch.Tensor, S: torch.Tensor, far: torch.Tensor | None) -> Basis:
        """The same found again for W (m, n), as stored."""
        tall = (W.mT if W.shape[0] <= W.shape[1] else W).to(near.dtype)
        return cls(near.to(W.device), S.to(W.device), tall, None if far is None else far.to(W.device))

    def project_near(self, X: torch.Tensor) -> torch.Tensor:
        X = X.to(self.near)
        return self.near @ (self.near.mT @ X)

    def project_far(self, X: torch.Tensor) -> torch.Tensor:
        """With the few columns of X only: on the widest layers the far vectors would be the largest matrix."""
        X = X.to(self.near)
        if self.far is not None:
            return self.far @ (self.far.mT @ X)
        inside = self.near.mT @ (self.tall.mT @ X) / self.S[:, None].square()
        return self.tall @ (self.near @ inside)

    def far_vectors(self) -> torch.Tensor:
        return self.far if self.far is not None else (self.tall @ self.near).div_(self.S)


class Decomposition:
    """W = U diag(S) V^T for W (m, n), with p = min(m, n) singular values. Nothing is computed before it is asked for.

    Three ways, of which the first that is exact enough is taken: eigenvectors of the Gram matrix in float32 (of larger weights),
    the same in float64, and ``torch.linalg.svd`` in float64 where directions near the floor are asked for. ``basis``: one that
    was found before.
    """

    def __init__(self, W: torch.Tensor, basis: Basis | None = None) -> None:
        self.stored, self.shape, self.p = W, W.shape, min(W.shape)
        self._wide = W.shape[0] <= W.shape[1]
        self._last = basis

    @property
    def dtype(self) -> torch.dtype:
        """In which the weight is worked with first."""
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
        """All p singular values, largest first."""
        return self._first.S

    def rank(self, rule: RankRule) -> int:
        """How many singular directions the rule keeps. The singular values are found only where it asks for them."""
        fixed = rule.of_size(self.p)
        return rule.of(self.S) if fixed is None else fixed

    def project(self, X: torch.Tensor, r: int, side: int) -> torch.Tensor:
        """U~ U~^T X for X (m, k) and side 0, V~ V~^T X for X (n, k) and side 1; r the kept rank."""
        if (basis := self.basis_of(r)) is None:
            basis = self._last = self._find(r)
        return basis.project_near(X) if (side == 0) == self._wide else basis.project_far(X)

    def basis_of(self, r: int) -> Basis | None:
        """The basis that was projected on last, if it is of this rank: one transfer asks for one."""
        return self._last if self._last is not None and len(self._last.S) == r else None

    def leading(self, r: int) -> tuple[torch.Tensor, torch.Tensor]:
        """U~ (m, r) and V~ (n, r), float64: the r leading singular vectors, each of them and not their span alone."""
        return self._sides(self._in_double(r))

    def spanning(self, r: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, right as a span, and only so far as rounding in ``dtype`` does not mix it with what is cut off."""
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


def similarity(source: Decomposition, target: Decomposition) -> float | None:
    """How alike two weights' leading subspaces are: 1 the same, 0 as alike as chance makes any two; None for unequal shapes.

    (Phi - r/n) / (1 - r/n) per side, with Phi = ||U~_s^T U~_t||_F^2 / r (LoRA-X, arXiv 2501.16559), r a quarter of min(m, n) and
    n the size of the side; of the two sides, the smaller value.
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
