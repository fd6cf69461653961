"""Gain recovery and its interval, from stored losses."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import torch

DRAWS = 2000
_RANKS = np.arange(DRAWS) / (DRAWS - 1)  # of draws in order
_ENDS = (0.025, 0.975)
ADAPTERS, ICONS, SEEDS = range(3)  # streams of random numbers: what is drawn of one says nothing of another
Pair = tuple[torch.Tensor, torch.Tensor]  # losses before and after, each (icons, seeds)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        return self.high < 0


@dataclass(frozen=True)
class Measured:
    """One adapter's losses, each float32 (icons, seeds): the target alone, with its native adapter, with what is judged."""

    alone: torch.Tensor
    native: torch.Tensor
    moved: torch.Tensor
    minus: torch.Tensor | None = None  # judged is the difference to this one, measured on the same icons under the same noise


def beyond(one: Measured, others: Sequence[torch.Tensor]) -> Measured:
    """The same with the mean of other losses (icons, seeds) in place of the target alone: what goes beyond them."""
    return replace(one, alone=_mean_of(tuple(others)))


def recovered(adapters: Sequence[Measured]) -> float:
    """The mean of ``recovery`` alone, without the draws that its interval takes."""
    return statistics.fmean((_mean_gain(*gained) / _mean_gain(*possible)).item() for gained, possible in map(_gains, adapters))


def recovery(adapters: Sequence[Measured]) -> Interval:
    """(L(target) - L(moved)) / (L(target) - L(native)), the mean over the adapters, which all weigh the same.

    With ``minus`` the paired difference of two recoveries. The interval is over adapters, icons and noise seeds: each is drawn
    anew with replacement, and adapters that are measured on as many icons share the draw, since they share subjects and noise.
    """
    means, draws = [], []
    for gained, possible in map(_gains, adapters):
        means.append(_mean_gain(*gained) / _mean_gain(*possible))
        draws.append(_drawn_gain(*gained) / _drawn_gain(*possible))
    return _interval(torch.stack(means), torch.stack(draws))


def change(adapters: Sequence[Pair]) -> Interval:
    """Of pairs (before, after) of losses (icons, seeds): the relative change of the mean loss; positive is worse."""
    means, draws = [], []
    for before, after in adapters:
        means.append(after.mean() / before.mean() - 1)
        draws.append(_drawn(after) / _drawn(before) - 1)
    return _interval(torch.stack(means), torch.stack(draws))


def mean(values: torch.Tensor) -> Interval:
    """Of values (n,), drawn anew with replacement."""
    draws = _counts(len(values), ICONS) @ values / len(values)
    return _within(values.mean(), draws)


def _gains(one: Measured) -> tuple[Pair, Pair]:
    """What is gained and what can be gained: losses before and after."""
    return (one.alone if one.minus is None else one.minus, one.moved), (one.alone, one.native)


def _mean_gain(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before - after).mean()


@lru_cache(4096)
def _mean_of(losses: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack(losses).mean(0)


def _drawn_gain(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The sum of what is gained in each draw, (DRAWS,)."""
    return _drawn(before) - _drawn(after)


@lru_cache(4096)  # the same target and native are in many figures; a tensor is told by what it is, not by its values
def _drawn(values: torch.Tensor) -> torch.Tensor:
    """The sum of values (icons, seeds) in each draw of icons and seeds, float64 (DRAWS,)."""
    return ((_counts(values.shape[0], ICONS) @ values) * _counts(values.shape[1], SEEDS)).sum(1, dtype=torch.float64)


def _interval(means: torch.Tensor, draws: torch.Tensor) -> Interval:
    """Of the mean over adapters: means (a,), draws (a, DRAWS)."""
    if len(means) > 1:
        draws = draws.gather(0, _chosen(len(means))).mean(0)
    return _within(means.mean(), draws.flatten())


def _within(mean: torch.Tensor, draws: torch.Tensor) -> Interval:
    """A mean with the interval that 95 % of its draws (DRAWS,) are in."""
    # What np.quantile gives, in an eighth of its time; a summary takes 27,000 of them.
    low, high = np.interp(_ENDS, _RANKS, np.sort(draws.numpy())).tolist()
    return Interval(mean.item(), low, high)


@cache
def _chosen(size: int) -> torch.Tensor:
    """Which of ``size`` adapters are in each draw, int64 (size, DRAWS)."""
    return torch.randint(size, (size, DRAWS), generator=torch.Generator().manual_seed(ADAPTERS))


@cache
def _counts(size: int, stream: int) -> torch.Tensor:
    """How often each of ``size`` things is in each draw, float32 (DRAWS, size)."""
    rows = torch.randint(size, (DRAWS, size), generator=torch.Generator().manual_seed(stream))
    return torch.zeros(DRAWS, size).scatter_add_(1, rows, torch.ones(DRAWS, size))


def of_pairs(pairs: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, float | int]:
    """The mean and the range of what transfers were worth, by the pair of bases; of how many pairs and transfers."""
    values = [value for of_pair in pairs.values() for value in of_pair]
    return {
        "mean": round(sum(values) / len(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "pairs": len(pairs),
        "transfers": len(values),
    }
