"""Forecasts what a transfer will be worth from its report, by what ``python -m lab forecast`` measured.

A forecast by weights is the range of what was measured among relatives or among strangers; one for a method that runs the models
is the range for the kind of pair.
"""

from __future__ import annotations

import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

from lorax.methods import auto
from lorax.transfer.expected import Forecast, Measured
from lorax.transfer.report import Report

FILE = Path(__file__).with_suffix(".json")
MARGIN = 0.05  # by how much a report may lie outside of what was measured


def forecast(report: Report) -> Forecast | Measured | None:
    """Return what is expected; None if nothing is moved, or if the transfer is unlike all that was measured.

    Unlike is a method that was not measured between such bases, a LoRA that ``--max-rank`` changed, or, for a method by weights,
    a similarity or coverage that no pair of the lab's bases has. More similar than the closest is a close relative too.
    """
    if report.coverage == 0 or report.compression_error > MARGIN:
        return None
    if report.kind is not None:
        return measured(report.kind).get(report.method)
    similarity = median_similarity(report)
    related = are_alike(similarity)
    group = _stored()["weights"].get(report.method, {}).get("related" if related else "unrelated")
    if group is None or not (_is_within(similarity, group["similarity"]) and _is_within(report.coverage, group["coverage"])):
        return None
    return Forecast(group["mean"], group["low"], group["high"], related)


def measured(kind: str) -> dict[str, Measured]:
    """Return what methods that run the models were worth between such bases, by method, the best first."""
    found = {method: Measured(kind, **kinds[kind]) for method, kinds in _stored()["running"].items() if kind in kinds}
    return dict(sorted(found.items(), key=lambda item: -item[1].mean))


def median_similarity(report: Report) -> float | None:
    """Return the median similarity of the paired layers, above chance; None if none was measured."""
    similar = [record.similarity for record in report.records if record.similarity is not None]
    return statistics.median(similar) if similar else None


def are_alike(similarity: float | None) -> bool:
    """Tell whether two bases with this median similarity count as related, by the measure by which ``auto`` judges."""
    return auto.are_related(similarity)


def _is_within(value: float | None, limits: tuple[float, float]) -> bool:
    return value is not None and limits[0] - MARGIN <= value <= limits[1] + MARGIN


@cache
def _stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content
