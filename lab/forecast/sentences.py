"""What is said of the forecasts. Each sentence is made from the figures, so that a useless forecast is called useless."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lab.forecast import validation
from lab.forecast.examples import Example
from lab.forecast.validation import FEWEST, MEAN, Features, Fold
from lab.report.cells import Cells
from lab.report.tables import number
from lab.stats import Interval, mean
from lab.variants import STRENGTHS


@dataclass(frozen=True)
class Judged:
    """A kind of forecast of one variant in one group, with all that it is judged by; errors are on bases that are left out."""

    variant: str
    kind: str
    related: bool
    candidates: tuple[Features, ...]
    examples: list[Example]

    @property
    def group(self) -> str:
        return "relatives" if self.related else "strangers"

    @property
    def name(self) -> str:
        return f"`{self.variant}` between {self.group}"

    @property
    def pairs(self) -> set[tuple[str, str]]:
        return {(example.source, example.target) for example in self.examples}

    @cached_property
    def tested(self) -> list[tuple[Fold, np.ndarray]]:
        return validation.left_out(self.examples, validation.chosen(self.candidates))

    @cached_property
    def features(self) -> Features:
        return validation.choose(self.examples, self.candidates)

    @cached_property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Each (folds,): of the forecast, of the group's mean."""
        return (
            validation.errors(self.examples, validation.chosen(self.candidates)),
            validation.errors(self.examples, validation.of(MEAN)),
        )

    @property
    def less(self) -> Interval:
        return validation.less(*self.errors)

    @property
    def is_useful(self) -> bool:
        return bool(self.features) and validation.is_useful(*self.errors)


def everything(judged: Sequence[Judged]) -> Iterator[str]:
    yield (
        "An error is the mean absolute difference of predicted and measured recovery at strength 1, of each style of each pair "
        "from or to the base left out; then the mean over these bases. All that the forecast is made from, the choice of its "
        "features too, comes from transfers that do not touch that base, and so does the mean to which it is compared. A "
        f"forecast is useful if the interval of the difference over at least {FEWEST} bases left out excludes 0."
    )
    for one in judged:
        if one.kind == "report":
            yield _range(one)
        yield f"{one.name}, by the {one.kind}: {_skill(one)}"
    yield from _probe_against_report(judged)


def strength(cells: Cells, examples: Sequence[Example]) -> Iterator[str]:
    """Whether the strength at which the target draws best what the source draws is the best on the style too."""
    found = [one for one in examples if "probed strength" in one.known and one.related]
    rows = [_by_strength(cells, one) for one in found]
    known = [(one, row) for one, row in zip(found, rows, strict=True) if None not in row]
    if not known:
        return
    at_one, at_probed, at_best = (np.array([row[i] for _, row in known], dtype=float) for i in range(3))
    gained = mean(torch.tensor(_paired([one for one, _ in known], at_probed - at_one)))
    yield (
        f"The strength, `copy` between relatives: recovery is {at_one.mean():.2f} at 1, {at_probed.mean():.2f} at that which the "
        f"probe finds best, {at_best.mean():.2f} at the best of the list. The probe's less that at 1: {number(gained)}."
    )


def errors(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each forecast."""
    return [
        {
            "of": one.name,
            "by the": one.kind,
            "transfers": len(one.examples),
            "bases left out": len(own),
            "error, forecast": _figure(own),
            "error, their mean": _figure(of_mean),
            "nearer by": number(one.less if len(own) else None),
        }
        for one in judged
        for own, of_mean in (one.errors,)
    ]


def candidates(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """What was tried, the chosen in bold."""
    return [
        {
            "of": one.name,
            "by the": one.kind,
            "features": f"**{_listed(features)}**" if features == one.features else _listed(features),
            "error": _figure(validation.errors(one.examples, validation.of(features))),
        }
        for one in judged
        for features in (MEAN, *one.candidates)
    ]


def _range(one: Judged) -> str:
    """What is shown where nothing finer is useful: no forecast, but what was measured."""
    measured = [example.measured for example in one.examples]
    low, high = np.quantile(measured, (0.05, 0.95))
    return (
        f"{one.name}: recovery is {np.mean(measured):.2f} in the mean of {len(measured)} transfers of {len(one.pairs)} pairs; "
        f"nine of ten lie between {low:.2f} and {high:.2f}."
    )


def _skill(one: Judged) -> str:
    own, of_mean = one.errors
    if len(own) < FEWEST:
        return f"only {len(own)} bases can be left out, so that nothing can be said of a forecast."
    found = f"error {own.mean():.2f}, of always predicting their mean {of_mean.mean():.2f}; nearer by {number(one.less)}."
    shown = "`analyze` and `transfer` show the range of what was measured." if one.kind == "report" else ""
    if one.is_useful:
        return f"{found} It is useful, and the lab alone knows it; it is made from: {_listed(one.features)}. {shown}".strip()
    return f"{found} **It does not tell them apart**, and is not shown. {shown}".strip()


def _probe_against_report(judged: Sequence[Judged]) -> Iterator[str]:
    """On the transfers that both were made for."""
    for report in (one for one in judged if one.kind == "report"):
        probe = next((one for one in judged if one.kind != "report" and one.name == report.name), None)
        if probe is None:
            continue
        same = Judged(report.variant, report.kind, report.related, report.candidates, probe.examples)
        own, other = probe.errors[0], same.errors[0]
        better = validation.is_useful(own, other)
        decided = "it is worth its cost" if better else "it stays in the lab, and `analyze` does not run it"
        yield f"{report.name}: the probe is nearer than the report alone by {number(validation.less(own, other))}: {decided}."


def _paired(examples: Sequence[Example], differences: np.ndarray) -> list[float]:
    """The mean over the styles of each pair of bases, of values (n,): transfers between the same bases are alike."""
    pairs = dict.fromkeys((example.source, example.target) for example in examples)
    rows = [[(example.source, example.target) == pair for example in examples] for pair in pairs]
    return [differences[np.array(row)].mean().item() for row in rows]


def _by_strength(cells: Cells, example: Example) -> tuple[float | None, ...]:
    """Recovery at strength 1, at the probe's best, and at the best of the list for this very style."""
    found = {at: cells.recovered(example.cell, at) for at in STRENGTHS}
    known = [one for one in found.values() if one is not None]
    best = max(known) if len(known) == len(found) else None
    return example.measured, found[example.known["probed strength"]], best


def _listed(features: Features) -> str:
    return ", ".join(features) or "their mean"


def _figure(errors: np.ndarray) -> str:
    return f"{errors.mean():.2f}" if len(errors) else "-"
