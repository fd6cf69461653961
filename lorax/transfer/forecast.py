"""What a transfer will be worth, told from its report, by what ``python -m lab forecast`` found among relatives and strangers.

That is the range of what was measured in the group; or a linear model, where one proved nearer than the group's mean. Of methods
that run the models, few transfers were measured: what is told is their range, by the kind of pair.

Recovery is measured on the lab's small models: 1 is the gain of a LoRA trained on the target itself, 0 is none, below 0 is harm.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.methods.auto import RELATED

if TYPE_CHECKING:
    from lorax.transfer.report import Report

FILE = Path(__file__).with_suffix(".json")
RELATIVES, STRANGERS, CROSSED = "relatives", "strangers", "families"  # kinds of pairs of bases
KINDS = {RELATIVES: "close relatives", STRANGERS: "unrelated", CROSSED: "of different families"}
MARGIN = 0.05  # by how much a report may lie outside of what was measured
Known = Mapping[str, float | None]


@dataclass(frozen=True)
class Forecast:
    """Of the recovery at strength 1; nine of ten transfers of the group lay within low and high.

    ``told``: whether it is of this very transfer; then low and high are of bases that the forecast had not seen.
    """

    mean: float
    low: float
    high: float
    related: bool  # the two bases
    told: bool

    @property
    def words(self) -> str:
        """For an artist."""
        who = "close relatives" if self.related else "unrelated"
        if not self.told:
            return (
                f"Forecast: {who}. Nine of ten such transfers between the lab's small models had {self._range} of the effect of "
                "a LoRA trained on the target; nothing known beforehand told these apart reliably. Large models can differ."
            )
        figures = f"{_percent(self.mean)}; most have {self._range}"
        return (
            f"Forecast: {who}, expect {_effect(self)} ({figures}, where 100 % is a LoRA trained on the target). "
            "It was measured on the lab's small models; large ones can differ."
        )

    @property
    def _range(self) -> str:
        return _between(self.low, self.high)


@dataclass(frozen=True)
class Measured:
    """Of a method that runs the models: mean, least and most recovery of all transfers that were measured of a kind of pair."""

    kind: str
    mean: float
    low: float
    high: float
    pairs: int
    transfers: int

    @property
    def words(self) -> str:
        """For an artist."""
        return f"Forecast: {KINDS[self.kind]}. {self.amount[0].upper()}{self.amount[1:]}. Large models can differ."

    @property
    def amount(self) -> str:
        pairs = "one pair" if self.pairs == 1 else f"{self.pairs} pairs"
        return (
            f"{self.transfers} LoRAs moved so between {pairs} of the lab's small models had {_between(self.low, self.high)} of "
            "the effect of a LoRA trained on the target"
        )


@dataclass(frozen=True)
class Model:
    """Recovery = intercept + sum of coefficient * feature, kept within ``bounds``, the recoveries that were measured.

    A feature is one of ``known``, or a product of such. Without any, the intercept is the mean of what was measured.
    """

    intercept: float
    coefficients: Mapping[str, float]
    bounds: tuple[float, float]

    def predict(self, known: Known) -> float:
        mean = self.intercept + sum(factor * value(feature, known) for feature, factor in self.coefficients.items())
        return min(max(mean, self.bounds[0]), self.bounds[1])


@dataclass(frozen=True)
class Group:
    """Pairs of bases that are alike in being related or not: the model, and within which ranges of ``known`` it holds.

    ``residuals``: measured less predicted, the 5 % and the 95 % quantile; of a model with features on bases left out of the fit.
    """

    model: Model
    ranges: Mapping[str, tuple[float, float]]
    residuals: tuple[float, float]

    def holds(self, known: Known) -> bool:
        values = ((known.get(name), limits) for name, limits in self.ranges.items())
        return all(value is not None and low - MARGIN <= value <= high + MARGIN for value, (low, high) in values)


def known(report: Report) -> dict[str, float | None]:
    """What a report says of a transfer as a whole.

    ``similarity`` and ``lowest`` of the paired layers, above chance; ``coverage``; ``kept``, the share of the adapter's norm that
    is moved, before the strength; ``overlap``, the share of the moved delta that the target has already.
    """
    similar = [record.similarity for record in report.records if record.similarity is not None]
    moved = [record for record in report.records if record.status == "transferred"]
    norm = math.hypot(*(record.norm for record in report.records))
    return {
        "coverage": report.coverage,
        "similarity": statistics.median(similar) if similar else None,
        "lowest": min(similar, default=None),
        "kept": math.hypot(*(record.norm * (record.kept or 0.0) for record in moved)) / norm if norm else None,
        "overlap": report.overlap,
    }


def are_alike(known: Known) -> bool:
    """Whether the two bases count as related, by the measure by which ``auto`` judges."""
    return (known.get("similarity") or 0.0) >= RELATED


def value(feature: str, known: Known) -> float:
    """KeyError or TypeError where it is not known."""
    factors: list[float] = [float(known[name]) for name in feature.split("*")]  # type: ignore[arg-type]
    return math.prod(factors)


def forecast(report: Report) -> Forecast | Measured | None:
    """None where nothing is moved, and outside of what was measured.

    That is: a method that was not measured on such bases, a LoRA that ``--max-rank`` changed, or, of a method that goes by
    weights, a similarity or coverage that no pair of the lab's bases has; more similar than the closest is a close relative too.
    """
    if report.coverage == 0 or report.compression_error > MARGIN:
        return None
    if report.kind is not None:
        return measured(report.kind).get(report.method)
    groups = _fitted().get(report.method, {})
    facts = known(report)
    related = are_alike(facts)
    group = groups.get("related" if related else "unrelated")
    if group is None or not group.holds(facts):
        return None
    mean = group.model.predict(facts)
    return Forecast(mean, mean + group.residuals[0], mean + group.residuals[1], related, bool(group.model.coefficients))


def measured(kind: str) -> dict[str, Measured]:
    """By method that runs the models, the one that was worth most first."""
    stored = json.loads(FILE.read_text(encoding="utf-8")).get("running", {})
    found = {method: Measured(kind, **kinds[kind]) for method, kinds in stored.items() if kind in kinds}
    return dict(sorted(found.items(), key=lambda item: -item[1].mean))


@cache
def _fitted() -> dict[str, dict[str, Group]]:
    """By method, then related or unrelated."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))["methods"]
    return {
        method: {
            name: Group(Model(one["intercept"], one["coefficients"], one["bounds"]), one["ranges"], one["residuals"])
            for name, one in groups.items()
        }
        for method, groups in stored.items()
    }


def _effect(forecast: Forecast) -> str:
    if forecast.high < 0.25:
        return "nothing, or harm" if forecast.low < 0 else "next to nothing"
    if forecast.mean >= 0.75:
        return "about the original's effect"
    if forecast.mean >= 0.5:
        return "most of the original's effect"
    return "a part of the original's effect" if forecast.mean >= 0.25 else "little of the original's effect"


def _between(low: float, high: float) -> str:
    least, most = _percent(low), _percent(high)
    return f"about {least}" if least == most else f"between {least} and {most}"


def _percent(share: float) -> str:
    """To 5 %: more would be a claim."""
    return f"{5 * round(20 * share)} %"
