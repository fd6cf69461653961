"""What a report says of a transfer as a whole: the facts that are known before a model is run, from which a forecast is made."""

from __future__ import annotations

import math
from typing import Any

from lorax.transfer import Report
from lorax.transfer.forecast import median_similarity

Known = dict[str, float | None]


def known(report: Report) -> Known:
    """Return the five figures that a forecast may use; None for one that was not measured.

    ``similarity`` and ``lowest`` of the paired layers, above chance; ``coverage``; ``kept``, the share of the adapter's norm that
    is moved, before the strength; ``overlap``, the share of the moved delta that the target has already.
    """
    similar = [record.similarity for record in report.records if record.similarity is not None]
    norm = math.hypot(*(record.norm for record in report.records))
    moved = math.hypot(*(record.norm * (record.kept or 0.0) for record in report.records if record.is_transferred))
    return {
        "coverage": report.coverage,
        "similarity": median_similarity(report),
        "lowest": min(similar, default=None),
        "kept": moved / norm if norm else None,
        "overlap": report.overlap,
    }


def stored(report: Report) -> dict[str, Any]:
    """Return what the results keep of a report: ``known``, rounded, whether it was declined, and the largest rank."""
    rounded = {name: None if value is None else round(value, 4) for name, value in known(report).items()}
    rank = max((record.rank or 0 for record in report.records if record.is_transferred), default=0)
    return {**rounded, "declined": bool(report.declined), "rank": rank}
