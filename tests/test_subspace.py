"""The fast ways to a weight's leading subspaces, on weights large enough for them, against numpy's SVD in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorax.methods import METHODS, WeightPair
from lorax.subspace import Decomposition, RankRule, similarity
from lorax.subspace.gram import Gram, lower_gram
from tests import reference
from tests.matrices import bases, fine_tuned, low_rank, moved, weight
from tests.measures import distance

SHAPES = {"square": (320, 320), "wide": (288, 700), "tall": (700, 288)}  # more than lorax.subspace.SMALL on either side
BOUND = 1e-3


def spectrum(shape: tuple[int, int], S: np.ndarray, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed)
    U, V = (np.linalg.qr(made.normal(size=(n, min(shape))))[0] for n in shape)
    return (U * S) @ V.T


def power_law(shape: tuple[int, int], power: float, seed: int = 0) -> np.ndarray:
    return weight(shape, seed, power).astype(np.float32).astype(float)


@pytest.mark.parametrize("power", [0.2, 0.5, 0.8, 1.2])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("method", ["lorax", "prolora", "prolora-cross"])
def test_every_method_stays_within_the_bound(method: str, shape: tuple[int, int], power: float) -> None:
    W_s = power_law(shape, power)
    W_t = fine_tuned(W_s, 5).astype(np.float32).astype(float)
    dW, matrix = low_rank(shape, 4, rank=8)
    for rank in ("25%", "65%", "energy:0.95"):
        pair = bases(W_s, W_t, rank)
        assert distance(moved(method, dW, pair), reference.METHODS[method](matrix, W_s, W_t, pair.r)) < BOUND


@pytest.mark.parametrize("power", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_stated_error_is_the_error(power: float, share: float) -> None:
    W = power_law((400, 400), power)
    r, X = round(share * 400), torch.randn(400, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near, stated = Gram(torch.tensor(W).float()).refined(r)
    U = torch.tensor(reference.leading(W, r)[0])
    exact = U @ (U.mT @ X)
    error = ((near.double() @ (near.double().mT @ X) - exact).norm() / exact.norm()).item()
    assert error / 2 < stated < 5 * error + 1e-5


def test_float32_where_it_is_exact_enough_and_float64_where_it_is_not() -> None:
    X = torch.ones(320, 2)
    flat, steep = (Decomposition(torch.tensor(power_law((320, 320), power)).float()) for power in (0.5, 1.0))
    assert [flat.project(X, 200, side).dtype for side in (0, 1)] == [torch.float32] * 2
    assert [steep.project(X, 200, side).dtype for side in (0, 1)] == [torch.float64] * 2


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_steep_spectra_fall_back(shape: tuple[int, int], smallest: float) -> None:
    """Down to where only the full decomposition of the weight itself tells directions apart."""
    W = spectrum(shape, np.geomspace(1, smallest, min(shape)))
    dW, matrix = low_rank(shape, 4)
    for r in (70, 200, min(shape) - 1):
        assert distance(moved("lorax", dW, bases(W, W, str(r))), reference.lorax(matrix, W, W, r)) < BOUND


@pytest.mark.parametrize("rank", [0, 1, 100])
def test_weights_without_full_rank_give_finite_factors(rank: int) -> None:
    S = np.where(np.arange(300) < rank, 1.0, 0.0)
    pair = bases(spectrum((300, 500), S), spectrum((300, 500), S, 1), "50%")
    dW, _ = low_rank((300, 500), 4)
    for method in ("lorax", "prolora"):
        assert np.isfinite(moved(method, dW, pair)).all()
    assert pair.similarity is not None
    assert np.isfinite(pair.similarity)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_similarity_is_that_of_the_exact_subspaces(shape: tuple[int, int]) -> None:
    W_s = power_law(shape, 0.5)
    W_t = fine_tuned(W_s, 3)
    measured = similarity(Decomposition(torch.tensor(W_s).float()), Decomposition(torch.tensor(W_t).float()))
    assert measured == pytest.approx(reference.similarity(W_s, W_t), abs=1e-4)


def test_the_lower_half_of_the_gram_matrix() -> None:
    A = torch.randn(50, 33, dtype=torch.float64)
    assert torch.allclose(lower_gram(A).tril(), (A.mT @ A).tril())


def test_a_rank_that_is_known_beforehand_needs_nothing_of_the_source() -> None:
    nothing = Decomposition(torch.empty(320, 320, device="meta"))  # whatever is computed of it has no values
    target = Decomposition(torch.tensor(power_law((320, 320), 0.5)).float())
    for rank in ("25%", "64", "100%"):
        result, _ = METHODS["lorax"].move(low_rank((320, 320), 4)[0], WeightPair(nothing, target, RankRule(rank)))
        assert result is not None
        assert torch.isfinite(result.up).all()
