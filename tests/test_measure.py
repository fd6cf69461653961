"""Gain recovery and its interval, on losses whose recovery is known."""

from __future__ import annotations

import pytest
import torch

from lab.stats import Measured, change, recovery

ICONS, SEEDS = 40, 5


@pytest.fixture
def alone() -> torch.Tensor:
    return 1 + 0.2 * torch.randn(ICONS, SEEDS, generator=torch.Generator().manual_seed(0))


def test_the_native_recovers_all_and_the_target_alone_nothing(alone: torch.Tensor) -> None:
    native = alone - 0.5
    everything, nothing = recovery([Measured(alone, native, native)]), recovery([Measured(alone, native, alone)])
    assert (everything.mean, everything.low, everything.high) == pytest.approx((1, 1, 1))
    assert (nothing.mean, nothing.low, nothing.high) == pytest.approx((0, 0, 0), abs=1e-6)


def test_the_interval_covers_and_narrows(alone: torch.Tensor) -> None:
    noise = torch.randn(ICONS, 1, generator=torch.Generator().manual_seed(1))
    r = recovery([Measured(alone, alone - 0.5, alone - 0.2 + 0.05 * noise)])
    assert r.low < r.mean < r.high
    assert r.low < 0.4 < r.high
    many = recovery([Measured(alone.repeat(16, 1), alone.repeat(16, 1) - 0.5, (alone - 0.2 + 0.05 * noise).repeat(16, 1))])
    assert many.high - many.low < (r.high - r.low) / 3


def test_a_difference_is_paired(alone: torch.Tensor) -> None:
    """What two methods share does not widen the interval of their difference."""
    shared = 0.3 * torch.randn(ICONS, SEEDS, generator=torch.Generator().manual_seed(2))
    difference = recovery([Measured(alone, alone - 0.5, alone - 0.3 + shared, minus=alone - 0.2 + shared)])
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.2, 0.2, 0.2), abs=1e-5)


def test_adapters_weigh_the_same_and_their_spread_widens_the_interval(alone: torch.Tensor) -> None:
    loud = Measured(10 * alone, 10 * alone - 10, 10 * alone - 10)
    quiet = Measured(alone, alone - 0.1, alone)
    both = recovery([loud, quiet])
    assert both.mean == pytest.approx(0.5, abs=1e-5)
    assert (both.low, both.high) == pytest.approx((0, 1), abs=1e-4)


def test_a_change_is_relative_to_the_loss_before(alone: torch.Tensor) -> None:
    worse = change([(alone, 1.2 * alone)])
    assert (worse.mean, worse.low, worse.high) == pytest.approx((0.2, 0.2, 0.2), abs=1e-5)
