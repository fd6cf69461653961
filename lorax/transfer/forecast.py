"""Forecasts what a transfer is worth from its report.

Of methods by weights it is recovery of the loss, by ``python -m lab forecast``. Of those that run the models it is what was seen
in pictures, by ``python -m lab seen``.
"""

import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

from lorax.methods import auto
from lorax.transfer.expected import Forecast, Measured
from lorax.transfer.report import Report

FILE = Path(__file__).with_suffix(".json")
SEEN = FILE.with_name("seen.json")
MARGIN = 0.05  # by which a report may lie outside of the measured range


def forecast(report: Report) -> Forecast | Measured | None:
    """Return what was measured for the method between such bases; None if nothing is moved or comparable.

    A LoRA that ``--max-rank`` changed is not comparable. Nor is, for a method by weights, a similarity or a coverage outside the
    range of the lab's bases.
    """
    if report.coverage == 0 or report.compression_error > MARGIN:
        return None
    if report.kind is not None:
        return measured(report.kind).get(report.method)
    similarity = median_similarity(report)
    related = are_alike(similarity)
    group = _stored(FILE)["weights"].get(report.method, {}).get("related" if related else "unrelated")
    if group is None or not (_is_within(similarity, group["similarity"]) and _is_within(report.coverage, group["coverage"])):
        return None
    return Forecast(group["mean"], group["low"], group["high"], related)


def measured(kind: str) -> dict[str, Measured]:
    """Return what was seen of the methods that run the models between such bases, by method, the best first."""
    found = {method: Measured(kind, **kinds[kind]) for method, kinds in _stored(SEEN)["running"].items() if kind in kinds}
    return dict(sorted(found.items(), key=lambda item: -item[1].mean))


def median_similarity(report: Report) -> float | None:
    """Return the median similarity of the paired layers; None if none was measured."""
    similar = [record.similarity for record in report.records if record.similarity is not None]
    return statistics.median(similar) if similar else None


def are_alike(similarity: float | None) -> bool:
    """Tell whether bases with this median similarity count as related, as ``auto`` judges."""
    return auto.are_related(similarity)


def _is_within(value: float | None, limits: tuple[float, float]) -> bool:
    return value is not None and limits[0] - MARGIN <= value <= limits[1] + MARGIN


@cache
def _stored(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
