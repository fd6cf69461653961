"""Computes singular vectors from the smaller Gram matrix of a weight, several times faster than an SVD."""

import torch

from lorax.subspace.lazy import once

BLOCKS = 4  # columns of blocks in the Gram matrix; most of the upper half is not computed
WINDOW = 32  # singular vectors on either side of the cut that are corrected in float64
ROWS = 256  # rows of a weight in float64 at a time, few enough for a core's cache
EPSILON = torch.finfo(torch.float32).eps


class Gram:
    """The p = min(m, n) singular values of W (m, n) and the singular vectors of its smaller side, in the dtype of W."""

    def __init__(self, W: torch.Tensor) -> None:
        self.tall = W.mT if W.shape[0] <= W.shape[1] else W  # (far, near), the larger side first

    @once
    def _eigen(self) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = torch.linalg.eigh(lower_gram(self.tall))
        return values.flip(0).clamp_min(0), vectors.flip(1)

    @property
    def S(self) -> torch.Tensor:
        """Singular values (p,), largest first."""
        return self._eigen[0].sqrt()

    @property
    def near(self) -> torch.Tensor:
        """Singular vectors (p, p) of the smaller side, in the order of S."""
        return self._eigen[1]

    def refined(self, r: int) -> tuple[torch.Tensor, float]:
        """Return the r < p leading vectors (p, r) of the smaller side, corrected at the cut, and the remaining error.

        Rounding mixes vectors of close singular values, which matters only across the cut between the r-th and the next vector.
        So a Rayleigh-Ritz step in float64 corrects a window around the cut. The remaining mixing across the cut is measured
        between the window and the other vectors, and estimated from that for two other vectors. The error is that of a projection
        of random columns, to first order and relative to the result.
        """
        values, vectors = (part.double() for part in self._eigen)
        first, last = max(0, r - WINDOW), min(len(values), r + WINDOW)
        Z, image = vectors[:, first:last], self._image(vectors[:, first:last])
        root = torch.linalg.cholesky(Z.mT @ Z)  # float32 vectors are not quite orthonormal
        K = torch.linalg.solve_triangular(root, image.mT @ image, upper=False)
        theta, turned = torch.linalg.eigh(torch.linalg.solve_triangular(root, K.mT, upper=False))
        turn = torch.linalg.solve_triangular(root.mT, turned.flip(1), upper=True)
        Z, image, theta = Z @ turn, image @ turn, theta.flip(0)
        above, below, top = vectors[:, :first], vectors[:, last:], r - first
        left = self._preimage(image) - Z * theta  # residuals of the window's vectors
        mixed = torch.cat([above.mT @ left, below.mT @ left])
        angles = mixed / _apart(torch.cat([values[:first], values[last:]])[:, None] - theta, values[0])
        measured = angles[:first, top:].square().sum() + angles[first:, :top].square().sum()
        others = mixed.square().mean() * _apart(values[:first, None] - values[last:], values[0]).pow(-2).sum()
        near = torch.cat([above, Z[:, :top]], 1).to(self.tall)
        across = (2 / r * (measured + others.nan_to_num(0))).sqrt()
        return near, across.item() + EPSILON * (self.S[0] / self.S[r - 1]).item()

    def _image(self, Z: torch.Tensor) -> torch.Tensor:
        """Return A Z in float64 for the tall A, with few rows of A in float64 at a time."""
        return torch.cat([rows.double() @ Z for rows in torch.split(self.tall, ROWS)])

    def _preimage(self, Y: torch.Tensor) -> torch.Tensor:
        """Return A^T Y in float64 for the tall A, with few rows of A in float64 at a time."""
        parts = (rows.double().mT @ part for rows, part in zip(torch.split(self.tall, ROWS), torch.split(Y, ROWS), strict=True))
        return sum(parts, torch.zeros((), dtype=Y.dtype, device=Y.device))


def lower_gram(tall: torch.Tensor) -> torch.Tensor:
    """Return A^T A (near, near) for A (far, near), correct only on and below the diagonal."""
    p = tall.shape[1]
    gram = tall.new_zeros(p, p)
    step = -(-p // BLOCKS)
    for start in range(0, p, step):
        gram[start:, start : start + step] = tall[:, start:].mT @ tall[:, start : start + step]
    return gram


def _apart(gaps: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return the gaps between eigenvalues, at least the rounding error of the largest eigenvalue."""
    return gaps.abs().clamp_min(1e-16 * largest.item())
