"""Fits forecasts and finds out how far off they are on bases that the fit has not seen.

All examples are of one group, relatives or strangers: telling these two apart is no skill of a forecast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab.forecast.examples import Example
from lab.forecast.model import Model, value
from lab.stats import Interval, mean

Features = tuple[str, ...]
Fit = Callable[[Sequence[Example]], Model]
MEAN: Features = ()
FEWEST = 4  # bases left out: with fewer a forecast is nearer for each of them by mere chance too often


@dataclass(frozen=True)
class Fold:
    """``bases``: what is left out, one base or several between which alone anything moves; ``seen`` touches none of them."""

    bases: str
    seen: list[Example]
    held: list[Example]


def fit(examples: Sequence[Example], features: Features) -> Model:
    """Least squares; of columns that say the same, each gets its share."""
    measured = np.array([example.measured for example in examples])
    rows = [[1.0, *(value(feature, example.known) for feature in features)] for example in examples]
    intercept, *coefficients = np.linalg.lstsq(np.array(rows), measured, rcond=None)[0].tolist()
    return Model(intercept, dict(zip(features, coefficients, strict=True)), (measured.min().item(), measured.max().item()))


def folds(examples: Sequence[Example]) -> list[Fold]:
    """One for each base; a base that every example touches cannot be left out, and the same fold counts once."""
    touching: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for base in sorted({base for one in examples for base in (one.source, one.target)}):
        touching[tuple(i for i, one in enumerate(examples) if base in (one.source, one.target))].append(base)
    return [
        Fold(
            " and ".join(bases),
            [one for i, one in enumerate(examples) if i not in held],
            [examples[i] for i in held],
        )
        for held, bases in touching.items()
        if len(held) < len(examples)
    ]


def left_out(examples: Sequence[Example], fitted: Fit) -> list[tuple[Fold, np.ndarray]]:
    """The forecasts (held,) of each fold by a model that has seen none of its bases, neither as source nor as target."""
    found = []
    for fold in folds(examples):
        model = fitted(fold.seen)
        found.append((fold, np.array([model.predict(example.known) for example in fold.held])))
    return found


def errors(examples: Sequence[Example], fitted: Fit) -> np.ndarray:
    """Mean absolute error on the transfers from and to the bases left out, (folds,)."""
    tested = left_out(examples, fitted)
    return np.array([np.abs(predicted - [one.measured for one in fold.held]).mean() for fold, predicted in tested])


def of(features: Features) -> Fit:
    return lambda examples: fit(examples, features)


def choose(examples: Sequence[Example], candidates: Iterable[Features]) -> Features:
    """That with the smallest error on bases left out; ``MEAN`` where no other has a smaller one, or nothing can be left out."""
    if not folds(examples):
        return MEAN
    return min((MEAN, *candidates), key=lambda features: round(errors(examples, of(features)).mean().item(), 4))


def chosen(candidates: Sequence[Features]) -> Fit:
    """Chooses anew on what it is given, so that what is left out has no say in the choice either."""
    return lambda examples: fit(examples, choose(examples, candidates))


def less(one: np.ndarray, other: np.ndarray) -> Interval:
    """By how much one error (folds,) is smaller than another; over the bases left out. Between 0 and 0 where there are none."""
    return mean(torch.tensor((other - one).tolist())) if len(one) else Interval(0.0, 0.0, 0.0)


def is_useful(own: np.ndarray, of_mean: np.ndarray) -> bool:
    """Whether errors (folds,) are below those of always predicting the group's mean."""
    return len(own) >= FEWEST and less(own, of_mean).is_above_zero
