"""A linear model of what a transfer is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Known = Mapping[str, float | None]


@dataclass(frozen=True)
class Model:
    """Recovery = intercept + sum of coefficient * feature, kept within ``bounds``, the recoveries that were measured.

    A feature is a figure that is known of a transfer, or a product of such figures. Without features the intercept is the mean
    of what was measured.
    """

    intercept: float
    coefficients: Mapping[str, float]
    bounds: tuple[float, float]

    def predict(self, known: Known) -> float:
        """Return the recovery that is forecast. Raises KeyError or TypeError if a feature is not known."""
        mean = self.intercept + sum(factor * value(feature, known) for feature, factor in self.coefficients.items())
        return min(max(mean, self.bounds[0]), self.bounds[1])


def value(feature: str, known: Known) -> float:
    """Return the value of a feature. Raises KeyError or TypeError if it is not known."""
    factors: list[float] = [float(known[name]) for name in feature.split("*")]  # type: ignore[arg-type]
    return math.prod(factors)
