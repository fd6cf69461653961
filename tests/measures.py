"""How far two results are apart, and what rounding may cost."""

from __future__ import annotations

import numpy as np
import torch

from lorax.low_rank import LowRank

GAP = 1e-3  # relative gap of the singular values at the cut, below which the subspace itself is ill-defined
HALF = 1.5e-3  # what two factors in fp16 may lose, relative


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def gap(W: np.ndarray, r: int, every: bool = False) -> float:
    """Relative gap below the r-th singular value; with ``every``, the smallest gap of the first r."""
    S = np.append(np.linalg.svd(W, compute_uv=False), 0.0)
    return float(min((S[i] - S[i + 1]) / S[i] for i in (range(r) if every else [r - 1])))


def dense(delta: LowRank) -> np.ndarray:
    return delta.scale * (delta.up.double() @ delta.down.double()).numpy()


def between(a: LowRank, b: LowRank) -> float:
    return LowRank(torch.cat([a.scale * a.up, -b.scale * b.up], 1), torch.cat([a.down, b.down])).norm()


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = HALF) -> None:
    assert found.keys() == expected.keys()
    for name, dW in expected.items():
        assert distance(found[name], dW) < tolerance, name
