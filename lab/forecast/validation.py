"""Fits forecasts and finds out how far off they are on bases that the fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from lab.forecast.examples import Example
from lab.stats import Interval, mean
from lorax.forecast import Model, value

Features = tuple[str, ...]
Fit = Callable[[Sequence[Example]], Model]
By = Callable[[Example], str]  # the base that is left out
MEAN: Features = ()
RELATED: Features = ("related",)


def target(example: Example) -> str:
    return example.target


def source(example: Example) -> str:
    return example.source


def fit(examples: Sequence[Example], features: Features) -> Model:
    """Least squares; of columns that say the same, each gets its share."""
    measured = np.array([example.measured for example in examples])
    rows = [[1.0, *(value(feature, example.known) for feature in features)] for example in examples]
    intercept, *coefficients = np.linalg.lstsq(np.array(rows), measured, rcond=None)[0].tolist()
    return Model(intercept, dict(zip(features, coefficients, strict=True)), (measured.min().item(), measured.max().item()))


def left_out(examples: Sequence[Example], fitted: Fit, by: By) -> np.ndarray:
    """The forecast (n,) of each example by a model that has seen no example of the same base."""
    folds = {base: fitted([example for example in examples if by(example) != base]) for base in {by(one) for one in examples}}
    return np.array([folds[by(example)].predict(example.known) for example in examples])


def errors(examples: Sequence[Example], fitted: Fit, by: By) -> np.ndarray:
    """Of each example left out, absolute, (n,)."""
    return np.abs(left_out(examples, fitted, by) - [example.measured for example in examples])


def of(features: Features) -> Fit:
    return lambda examples: fit(examples, features)


def choose(examples: Sequence[Example], candidates: Iterable[Features]) -> Features:
    """The candidate with the smallest error on targets left out, of those that are better than ``RELATED``, else that.

    With few bases a more complicated one wins by chance. So it has to be better on sources left out too, and the interval of the
    difference over pairs of bases has to exclude 0 for both.
    """
    if min(len({by(example) for example in examples}) for by in (target, source)) < 2:
        return RELATED  # nothing can be left out
    simple = {by: errors(examples, of(RELATED), by) for by in (target, source)}

    def is_better(own: np.ndarray, by: By) -> bool:
        return less(examples, own, simple[by]).is_above_zero

    better = [
        (own.mean(), features)
        for features in candidates
        if is_better(own := errors(examples, of(features), target), target)
        and is_better(errors(examples, of(features), source), source)
    ]
    return min(better, default=(0.0, RELATED))[1]


def chosen(candidates: Sequence[Features]) -> Fit:
    """Chooses anew on what it is given, so that what is left out has no say in the choice either."""
    return lambda examples: fit(examples, choose(examples, candidates))


def paired(examples: Sequence[Example], differences: np.ndarray) -> list[float]:
    """The mean over the styles of each pair of bases, of values (n,): transfers between the same bases are alike."""
    pairs = dict.fromkeys((example.source, example.target) for example in examples)
    rows = [[(example.source, example.target) == pair for example in examples] for pair in pairs]
    return [differences[np.array(row)].mean().item() for row in rows]


def less(examples: Sequence[Example], one: np.ndarray, other: np.ndarray) -> Interval:
    """By how much one error (n,) is smaller than another; over pairs of bases."""
    return mean(torch.tensor(paired(examples, other - one)))


def is_useful(own: np.ndarray, of_mean: np.ndarray) -> bool:
    """Whether errors (n,) are below those of always predicting the mean, by more than rounding."""
    return round(own.mean().item(), 4) < round(of_mean.mean().item(), 4)
