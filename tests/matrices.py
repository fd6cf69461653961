"""Random weights and deltas as matrices, and one delta moved between two of them."""

from __future__ import annotations

import numpy as np
import torch

from lorax.low_rank import LowRank
from lorax.methods import METHODS, WeightPair
from lorax.subspace import Decomposition, RankRule
from tests.measures import dense


def weight(shape: tuple[int, int], seed: int, power: float = 0.7) -> np.ndarray:
    """Random singular vectors, singular values i^-power with a little jitter: the shape of trained weights' spectra."""
    made = np.random.default_rng(seed)
    p = min(shape)
    U, V = (np.linalg.qr(made.normal(size=(n, p)))[0] for n in shape)
    S = np.arange(1, p + 1.0) ** -power * np.exp(0.01 * made.normal(size=p))
    return (U * S) @ V.T


def fine_tuned(W: np.ndarray, seed: int) -> np.ndarray:
    return W + 0.1 * W.std() * np.random.default_rng(seed).normal(size=W.shape)


def low_rank(shape: tuple[int, int], seed: int, rank: int = 3, scale: float = 0.5) -> tuple[LowRank, np.ndarray]:
    """A delta of float32 factors, and the same multiplied out in float64."""
    made = np.random.default_rng(seed)
    up, down = made.normal(size=(shape[0], rank)).astype(np.float32), made.normal(size=(rank, shape[1])).astype(np.float32)
    return LowRank(torch.tensor(up), torch.tensor(down), scale), scale * up.astype(float) @ down.astype(float)


def bases(W_s: np.ndarray, W_t: np.ndarray, rank: str) -> WeightPair:
    return WeightPair(Decomposition(torch.tensor(W_s)), Decomposition(torch.tensor(W_t)), RankRule(rank))


def moved(method: str, dW: LowRank, pair: WeightPair) -> np.ndarray:
    result, _ = METHODS[method].move(dW, pair)
    assert result is not None
    return dense(result)
