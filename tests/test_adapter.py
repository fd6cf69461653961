"""LowRank: its norm, the compression to a smaller rank, and the balancing that half precision needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.low_rank import LowRank


def made(m: int, n: int, k: int, seed: int = 0, scale: float = 0.25) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(m, k, generator=g), torch.randn(k, n, generator=g), scale)


def dense(delta: LowRank) -> np.ndarray:
    return delta.scale * (delta.up.double() @ delta.down.double()).numpy()


def test_dense_deltas_share_their_identity() -> None:
    """Of a checkpoint like SDXL there are hundreds, and a copy beside each would take as much memory as they do."""
    tall, wide = LowRank.of(torch.randn(6, 4)), LowRank.of(torch.randn(4, 9))
    assert tall.down is wide.up
    moved = [one.to("meta") for one in (tall, wide)]
    assert moved[0].down is moved[1].up
    assert moved[0].up.device.type == "meta"
    with torch.inference_mode():
        first = LowRank.of(torch.randn(5, 5))
    up = torch.ones(5, 5, requires_grad=True)
    (up @ first.down).sum().backward()  # also if it was made where nothing can be trained


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 20), n=st.integers(1, 20), k=st.integers(1, 8), scale=st.sampled_from([1.0, -0.3, 1e-4]))
def test_norm(m: int, n: int, k: int, scale: float) -> None:
    delta = made(m, n, k, scale=scale)
    assert delta.norm() == pytest.approx(np.linalg.norm(dense(delta)), rel=1e-9)


@pytest.mark.parametrize(("shape", "rank"), [((30, 50), 3), ((50, 30), 1), ((6, 40), 5), ((40, 40), 7)])
def test_compressed_is_the_best_of_its_rank(shape: tuple[int, int], rank: int) -> None:
    delta = made(*shape, 8)
    small, error = delta.compressed(rank)
    U, S, Vt = np.linalg.svd(dense(delta), full_matrices=False)
    best = (U[:, :rank] * S[:rank]) @ Vt[:rank]
    assert small.rank == rank
    assert np.linalg.norm(dense(small) - best) < 1e-5 * np.linalg.norm(best)
    assert error == pytest.approx(np.linalg.norm(S[rank:]) / np.linalg.norm(S), rel=1e-6)


def test_compressed_leaves_small_adapters_alone() -> None:
    delta = made(20, 20, 4)
    assert delta.compressed(4) == (delta, 0.0)


def test_compressed_when_the_rank_is_more_than_a_side_has() -> None:
    """A rank 12 adapter on a weight with 5 rows has at most 5 directions; asking for 8 keeps all of it."""
    delta = made(5, 30, 12)
    small, error = delta.compressed(8)
    assert small.rank <= 8
    assert error == pytest.approx(0, abs=1e-7)
    assert np.allclose(dense(small), dense(delta), atol=1e-5)


def test_nothing_compresses_to_nothing() -> None:
    small, error = LowRank(torch.zeros(9, 4), torch.zeros(4, 9)).compressed(2)
    assert error == 0.0
    assert not dense(small).any()


sizes = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)


@settings(max_examples=60, deadline=None)
@given(columns=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_balanced_is_exact_and_survives_half_precision(columns: list[tuple[float, float]], seed: int) -> None:
    """No value is rounded, however unlike the factors' magnitudes; fp16 loses only its usual 2^-11 per factor."""
    raw = made(7, 9, len(columns), seed, scale=1.0)
    delta = LowRank(raw.up * torch.tensor([c[0] for c in columns]), raw.down * torch.tensor([c[1] for c in columns])[:, None])
    balanced = delta.balanced()
    assert np.linalg.norm(dense(balanced) - dense(delta)) <= 1e-14 * np.linalg.norm(dense(delta))
    stored = LowRank(balanced.up.half().float(), balanced.down.half().float(), balanced.scale)
    assert np.isfinite(dense(stored)).all()
    assert np.linalg.norm(dense(stored) - dense(delta)) < 1.1e-3 * _absolute(delta)


def _absolute(delta: LowRank) -> float:
    """|| |up| |down| ||_F: rounding the factors errs in proportion to it, even where columns cancel."""
    return float(np.linalg.norm(abs(delta.scale) * (delta.up.double().abs() @ delta.down.double().abs()).numpy()))


def test_balanced_drops_directions_that_are_nothing() -> None:
    """A huge column whose row is zero adds nothing, but left as it is it would overflow to inf, and inf * 0 is NaN."""
    delta = LowRank(torch.tensor([[1.0, 1e8], [2.0, 1e9]]), torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    stored = delta.balanced()
    assert torch.isfinite(stored.up.half()).all()
    assert np.array_equal(dense(stored), dense(delta))
    assert not dense(LowRank(torch.full((3, 2), 1e30), torch.zeros(2, 3)).balanced()).any()


def test_balanced_takes_whatever_float32_holds() -> None:
    delta = LowRank(torch.full((3, 2), 3e38), torch.full((2, 4), 2e38))
    balanced = delta.balanced()
    assert balanced.up.max() < 2
    assert np.allclose(dense(balanced), dense(delta), rtol=1e-14)
