"""Every method against the dense reference, and what must hold whatever the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.low_rank import LowRank
from lorax.methods import METHODS, runs_models, weight_method
from lorax.subspace import Decomposition, RankRule, similarity
from tests import reference
from tests.matrices import bases, fine_tuned, low_rank, moved, weight
from tests.measures import GAP, dense, distance, gap

SHAPES = {"square": (48, 48), "wide": (32, 90), "tall": (90, 32), "convolution": (24, 24 * 9)}
UNEQUAL = [((48, 48), (64, 40)), ((32, 90), (48, 60)), ((90, 32), (40, 32)), ((24, 216), (32, 288))]
RANKS = ["1", "5", "25%", "50%", "90%", "energy:0.5", "energy:0.95"]
PROJECTIONS = ("lorax", "prolora", "prolora-cross")


WEIGHT_METHODS = [name for name in METHODS if not runs_models(name)]


def cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for seed, shape in enumerate(SHAPES.values()):
        W = weight(shape, seed)
        yield W, fine_tuned(W, seed + 50)
        yield W, weight(shape, seed + 100, power=0.3)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("method", reference.METHODS)
def test_equal_shapes_against_the_reference(method: str, rank: str) -> None:
    compared = 0
    for seed, (W_s, W_t) in enumerate(cases()):
        pair = bases(W_s, W_t, rank)
        if min(gap(W_s, pair.r), gap(W_t, pair.r)) > GAP:
            dW, matrix = low_rank(W_s.shape, seed)
            assert distance(moved(method, dW, pair), reference.METHODS[method](matrix, W_s, W_t, pair.r)) < 1e-5
            compared += 1
    assert compared >= 4  # the rest have no gap at the cut; test_a_cut_without_a_gap holds for them


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("method", PROJECTIONS)
def test_unequal_shapes_against_the_reference(method: str, rank: str) -> None:
    """The least-squares map pairs single directions, so all of them need a gap and not the cut alone."""
    compared = 0
    for seed, (s, t) in enumerate(UNEQUAL):
        W_s, W_t = weight(s, seed, 1.5), weight(t, seed + 100, 1.5)
        pair = bases(W_s, W_t, rank)
        if min(gap(W_s, pair.r, every=True), gap(W_t, pair.r, every=True)) > GAP:
            dW, matrix = low_rank(s, seed)
            result = moved(method, dW, pair)
            assert result.shape == t
            assert distance(result, reference.METHODS[method](matrix, W_s, W_t, pair.r)) < 1e-5
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize("smallest", [1e-2, 1e-3, 1e-4, 1e-5, 1e-7])
def test_steep_spectra(smallest: float) -> None:
    """Directions far below the largest must be as exact as the leading ones: the Gram matrix alone would lose them."""
    made = np.random.default_rng(3)
    U, V = (np.linalg.qr(made.normal(size=(n, 40)))[0] for n in (40, 70))
    W = (U * np.geomspace(1, smallest, 40)) @ V.T
    dW, matrix = low_rank(W.shape, 4)
    for rank in ("10", "30", "39"):
        assert distance(moved("lorax", dW, bases(W, W, rank)), reference.lorax(matrix, W, W, int(rank))) < 1e-5


def test_a_small_gap_far_down_the_spectrum() -> None:
    """The hardest cut that is compared at all: relative gap just above 1e-3, at every depth."""
    made = np.random.default_rng(8)
    U, V = (np.linalg.qr(made.normal(size=(n, 30)))[0] for n in (30, 50))
    for depth in (1e-1, 1e-2, 1e-3, 1e-4, 5e-5, 2e-5, 1.1e-5, 1e-5, 1e-6):
        S = np.concatenate([np.geomspace(1, depth, 20), depth * 0.9985 * np.geomspace(1, 0.5, 10)])
        W = (U * S) @ V.T
        dW, matrix = low_rank(W.shape, 4)
        assert distance(moved("lorax", dW, bases(W, W, "20")), reference.lorax(matrix, W, W, 20)) < 1e-5


def test_the_kept_rank_is_the_larger_of_both_and_no_more_than_both_have() -> None:
    flat, steep = weight((48, 48), 0, power=0.1), weight((48, 48), 1, power=1.5)
    larger = RankRule("energy:0.9").of(Decomposition(torch.tensor(flat)).S)
    assert larger > 5 * RankRule("energy:0.9").of(Decomposition(torch.tensor(steep)).S)
    assert bases(flat, steep, "energy:0.9").r == bases(steep, flat, "energy:0.9").r == larger
    assert bases(flat, weight((20, 64), 2), "100%").r == 20


def test_copy_needs_equal_shapes() -> None:
    dW, _ = low_rank((48, 48), 0)
    result, why = weight_method("copy").move(dW, bases(weight((48, 48), 0), weight((64, 40), 1), "5"))
    assert result is None
    assert str(why) == "shapes differ ((48, 48) and (64, 40)), so it cannot be copied"


@pytest.mark.parametrize(("method", "shape"), list(itertools.product(WEIGHT_METHODS, SHAPES.values())))
def test_full_rank_to_itself_returns_the_adapter(method: str, shape: tuple[int, int]) -> None:
    W = weight(shape, 1)
    dW, matrix = low_rank(shape, 2)
    assert distance(moved(method, dW, bases(W, W, "100%")), matrix) < 1e-6


@pytest.mark.parametrize("shape", SHAPES.values())
def test_to_itself_prolora_with_cross_terms_is_the_identity_at_every_rank(shape: tuple[int, int]) -> None:
    W = weight(shape, 1)
    dW, matrix = low_rank(shape, 2)
    for rank in RANKS:
        assert distance(moved("prolora-cross", dW, bases(W, W, rank)), matrix) < 1e-6


@pytest.mark.parametrize(("method", "shape"), list(itertools.product(PROJECTIONS, SHAPES.values())))
def test_a_cut_without_a_gap(method: str, shape: tuple[int, int]) -> None:
    """Among equal singular values any basis is as good, so only what holds for every basis can be asked."""
    flat = weight(shape, 1, power=0.0)
    dW, _ = low_rank(shape, 2)
    pair = bases(flat, flat, "50%")
    result, _ = weight_method(method).move(dW, pair)
    assert result is not None
    assert result.norm() <= dW.norm() * (1 + 1e-5)
    if method != "prolora-cross":
        again, _ = weight_method(method).move(result, pair)
        assert again is not None
        assert distance(dense(again), dense(result)) < 1e-5


@pytest.mark.parametrize(("method", "shape"), list(itertools.product((*PROJECTIONS, "copy"), SHAPES.values())))
def test_turning_everything_turns_the_result(method: str, shape: tuple[int, int]) -> None:
    made = np.random.default_rng(9)
    R, Q = (np.linalg.qr(made.normal(size=(n, n)))[0] for n in shape)
    W_s = weight(shape, 1)
    W_t = fine_tuned(W_s, 2)
    dW, _ = low_rank(shape, 3)
    turned = LowRank(torch.tensor(R) @ dW.up.double(), dW.down.double() @ torch.tensor(Q).mT, dW.scale)
    pair, turned_pair = bases(W_s, W_t, "25%"), bases(R @ W_s @ Q.T, R @ W_t @ Q.T, "25%")
    assert distance(moved(method, turned, turned_pair), R @ moved(method, dW, pair) @ Q.T) < 1e-5


@pytest.mark.parametrize("method", PROJECTIONS)
@pytest.mark.parametrize("shape", SHAPES.values())
def test_rank_of_the_result(method: str, shape: tuple[int, int]) -> None:
    W = weight(shape, 1)
    dW, _ = low_rank(shape, 2, rank=3)
    result, _ = weight_method(method).move(dW, bases(W, fine_tuned(W, 3), "25%"))
    assert result is not None
    assert result.rank == (6 if method == "prolora" else 3)


@pytest.mark.parametrize("outside", [0.0, 0.2, 0.5])
def test_auto_projects_what_lies_inside_the_subspace_and_copies_the_rest(outside: float) -> None:
    """A delta with this much of its norm outside the target's leading directions: up to about 0.3 it is worth a projection."""
    W = weight((48, 60), 1, 1.5)
    W_t = fine_tuned(W, 2)
    pair = bases(W, W_t, "25%")
    U, _, Vt = np.linalg.svd(W_t, full_matrices=False)
    made = np.random.default_rng(3)
    r, k = pair.r, 3
    up, down = U[:, :r] @ made.normal(size=(r, k)), made.normal(size=(k, r)) @ Vt[:r]
    beyond = U[:, r : r + k] @ made.normal(size=(k, k))
    up += outside * np.linalg.norm(up @ down) / np.linalg.norm(beyond @ down) * beyond
    dW = LowRank(torch.tensor(up).float(), torch.tensor(down).float(), 0.5)
    result, how = weight_method("auto").move(dW, pair)
    assert result is not None
    if outside < 0.3:
        share = 1 / (1 + outside**2) ** 0.5
        assert str(how) == f"projected at rank {r}: {share:.0%} of the delta lies in the target's subspace"
        assert distance(dense(result), reference.lorax(dense(dW), W, W_t, r)) < 1e-5
        assert result is not dW
    else:
        assert result is dW
        assert "copied: a projection would keep only 89%" in str(how)


def test_auto_leaves_unequal_shapes_to_a_named_method() -> None:
    dW, _ = low_rank((48, 48), 0)
    result, why = weight_method("auto").move(dW, bases(weight((48, 48), 0), weight((64, 40), 1), "5"))
    assert result is None
    assert str(why) == "shapes differ ((48, 48) and (64, 40)); name lorax to try the least-squares map"


def test_similarity_against_the_reference() -> None:
    for W_s, W_t in cases():
        r = max(1, round(min(W_s.shape) / 4))
        if min(gap(W_s, r), gap(W_t, r)) > GAP:
            measured = similarity(Decomposition(torch.tensor(W_s)), Decomposition(torch.tensor(W_t)))
            assert measured == pytest.approx(reference.similarity(W_s, W_t), abs=1e-6)


def test_similarity_of_itself_of_strangers_and_of_other_shapes() -> None:
    W = weight((64, 96), 1)
    one, other = Decomposition(torch.tensor(W)), Decomposition(torch.tensor(weight((64, 96), 2)))
    assert similarity(one, one) == pytest.approx(1)
    strangers = similarity(one, other)
    assert strangers is not None
    assert abs(strangers) < 0.1
    assert similarity(one, Decomposition(torch.tensor(weight((64, 90), 1)))) is None


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(2, 24),
    n=st.integers(2, 24),
    k=st.integers(1, 4),
    share=st.integers(1, 100),
    seed=st.integers(0, 2**31),
    method=st.sampled_from(PROJECTIONS),
)
def test_nothing_grows(m: int, n: int, k: int, share: int, seed: int, method: str) -> None:
    """Every part is orthogonally projected, so no method can make an adapter larger, whatever the shapes."""
    W_s, W_t = weight((m, n), seed), weight((m, n), seed + 1)
    dW, _ = low_rank((m, n), seed + 2, rank=k)
    result, _ = weight_method(method).move(dW, bases(W_s, W_t, f"{share}%"))
    assert result is not None
    assert result.norm() <= dW.norm() * (1 + 1e-5)


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_degenerate_weights_and_deltas(method: str) -> None:
    """A base weight of zeros, one of rank 1, and a delta of zeros give finite results."""
    ones, zeros = np.ones((12, 20)), np.zeros((12, 20))
    nothing = LowRank(torch.zeros(12, 2), torch.zeros(2, 20))
    for W_s, W_t, rank in ((ones, ones, "5"), (zeros, ones, "5"), (ones, zeros, "50%"), (zeros, zeros, "energy:0.95")):
        for dW in (low_rank((12, 20), 1)[0], nothing):
            result = moved(method, dW, bases(W_s, W_t, rank))
            assert np.isfinite(result).all()
