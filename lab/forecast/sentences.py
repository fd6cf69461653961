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
from lab.forecast.validation import MEAN, RELATED, By, Features, Fit
from lab.report.cells import Cells
from lab.report.claims import Verdict, verdict
from lab.report.tables import number
from lab.stats import Interval, mean
from lab.variants import STRENGTHS

LEFT_OUT: dict[str, By] = {"target": validation.target, "source": validation.source}
SIMPLE = "related or not"


@dataclass(frozen=True)
class Judged:
    """A kind of forecast of one variant, with all that it is judged by; figures are of bases that are left out."""

    variant: str
    kind: str
    candidates: tuple[Features, ...]
    examples: list[Example]

    @cached_property
    def predicted(self) -> np.ndarray:
        return validation.left_out(self.examples, validation.chosen(self.candidates), validation.target)

    @cached_property
    def features(self) -> Features:
        return validation.choose(self.examples, self.candidates)

    @cached_property
    def errors(self) -> dict[str, dict[str, np.ndarray]]:
        """By what is left out, absolute, (n,): of the forecast, of the mean, of knowing only whether the bases are related."""
        fits: dict[str, Fit] = {
            "forecast": validation.chosen(self.candidates),
            "mean": validation.of(MEAN),
            SIMPLE: validation.of(RELATED),
        }
        return {
            what: {name: validation.errors(self.examples, fitted, by) for name, fitted in fits.items()}
            for what, by in LEFT_OUT.items()
        }

    def among(self, values: np.ndarray, related: bool) -> float | None:
        chosen = values[np.array([example.related is related for example in self.examples])]
        return chosen.mean().item() if len(chosen) else None


def everything(judged: Sequence[Judged]) -> Iterator[str]:
    yield (
        "An error is the mean absolute difference of predicted and measured recovery at strength 1, each style of each pair by "
        "itself. All that the forecast is made from, the choice of its features too, comes from other targets (or sources)."
    )
    for one in judged:
        found = one.errors["target"]
        own, of_mean, simple = (found[name] for name in ("forecast", "mean", SIMPLE))
        useful = validation.is_useful(own, of_mean)
        yield (
            f"`{one.variant}`, by the {one.kind}, on targets left out: error {own.mean():.2f}; of always predicting the mean "
            f"{of_mean.mean():.2f}; of knowing only whether the bases are related {simple.mean():.2f}. "
            + ("It is useful." if useful else "**It is useless**, and is not shown.")
        )
        if useful and one.kind == "report":
            yield f"`analyze` and `transfer` show that of `{one.variant}`; it is made from: {', '.join(one.features)}."
        less = _against(validation.less(one.examples, own, simple))
        yield f"`{one.variant}`, by the {one.kind}: {less} knowing whether the bases are related."
        yield from _among_relatives(one)
    yield from _probe_against_report(judged)


def strength(cells: Cells, examples: Sequence[Example]) -> Iterator[str]:
    """Whether the strength at which the target draws best what the source draws is the best on the style too."""
    found = [one for one in examples if "probed strength" in one.known and one.related]
    rows = [_by_strength(cells, one) for one in found]
    known = [(one, row) for one, row in zip(found, rows, strict=True) if None not in row]
    if not known:
        return
    at_one, at_probed, at_best = (np.array([row[i] for _, row in known], dtype=float) for i in range(3))
    gained = mean(torch.tensor(validation.paired([one for one, _ in known], at_probed - at_one)))
    yield (
        f"The strength, `copy` between relatives: recovery is {at_one.mean():.2f} at 1, {at_probed.mean():.2f} at that which the "
        f"probe finds best, {at_best.mean():.2f} at the best of the list. The probe's less that at 1: {number(gained)}."
    )


def errors(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each forecast and each way to leave bases out."""
    rows = []
    for one in judged:
        for what, found in one.errors.items():
            rows.append(
                {
                    "of": f"`{one.variant}`",
                    "by the": one.kind,
                    "left out": what,
                    "transfers": len(one.examples),
                    **{f"error, {name}": _figure(values.mean()) for name, values in found.items()},
                    **{f"{name}, relatives": _figure(one.among(values, True)) for name, values in found.items()},
                    **{f"{name}, strangers": _figure(one.among(values, False)) for name, values in found.items()},
                }
            )
    return rows


def candidates(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """What was tried, the chosen in bold."""
    return [
        {
            "of": f"`{one.variant}`",
            "features": f"**{', '.join(features)}**" if features == one.features else ", ".join(features),
            **{f"{what} left out": _figure(_error(one, features, by).mean()) for what, by in LEFT_OUT.items()},
            "relatives, target left out": _figure(one.among(_error(one, features, validation.target), True)),
        }
        for one in judged
        for features in (RELATED, *one.candidates)
    ]


def _error(one: Judged, features: Features, by: By) -> np.ndarray:
    return validation.errors(one.examples, validation.of(features), by)


def _among_relatives(one: Judged) -> Iterator[str]:
    """Whether it tells one pair of relatives from another."""
    found = one.errors["target"]
    own, simple = (one.among(found[name], True) for name in ("forecast", SIMPLE))
    if own is None or simple is None:
        return
    told = "tells them apart to some degree" if own < simple else "does not tell them apart"
    yield f"`{one.variant}`, by the {one.kind}, among relatives: error {own:.2f}, of their mean {simple:.2f}: it {told}."


def _probe_against_report(judged: Sequence[Judged]) -> Iterator[str]:
    """On the transfers that both were made for."""
    for report in (one for one in judged if one.kind == "report"):
        probe = next((one for one in judged if one.kind != "report" and one.variant == report.variant), None)
        if probe is None:
            continue
        same = Judged(report.variant, report.kind, report.candidates, probe.examples)
        own, other = (each.errors["target"]["forecast"] for each in (probe, same))
        less = validation.less(probe.examples, own, other)
        better = verdict(less) is Verdict.MORE
        decided = "it is worth its cost" if better else "it stays in the lab, and `analyze` does not run it"
        yield f"`{report.variant}`: the probe {_against(less)} the report alone: {decided}."


def _against(less: Interval) -> str:
    words = {Verdict.MORE: "is nearer than", Verdict.LESS: "is further off than", Verdict.SAME: "is the same as"}
    return f"{words.get(verdict(less), 'shows no measured difference to')} ({number(less)})"


def _by_strength(cells: Cells, example: Example) -> tuple[float | None, ...]:
    """Recovery at strength 1, at the probe's best, and at the best of the list for this very style."""
    found = {at: cells.recovered(example.cell, at) for at in STRENGTHS}
    known = [one for one in found.values() if one is not None]
    best = max(known) if len(known) == len(found) else None
    return example.measured, found[example.known["probed strength"]], best


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
