"""Converts a report to JSON, for other programs."""

import dataclasses
from collections import Counter
from typing import Any

from lorax.pairing import Vector
from lorax.transfer import wording
from lorax.transfer.expected import Cost, Forecast, Measured
from lorax.transfer.report import LayerRecord, Report


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as values of JSON, with its sentences."""
    return {
        "method": report.method,
        "declined": wording.declined(report),
        "unrelated": wording.unrelated(report.unrelated) if report.unrelated else None,
        "mismatch": wording.mismatch_words(report.mismatch) if report.mismatch else None,
        "draws_as_original": report.draws_as_original,
        "overlap": report.overlap,
        "strength": report.strength,
        "saved_strength": report.saved_strength,
        "coverage": report.coverage,
        "embeddings": report.embeddings,
        "beside": report.extra_layers,
        "vectors": [_vector(vector) for vector in report.vectors],
        "forecast": _expected(report.expected) if report.expected else None,
        "cost": _cost(report.cost) if report.cost else None,
        "proposals": [
            {"method": one.method, "forecast": _expected(one.worth), "cost": _cost(one.cost)} for one in report.proposals
        ],
        "counts": Counter(record.status.value for record in report.records),
        "layers": [_layer(record) for record in report.records],
    }


def _layer(record: LayerRecord) -> dict[str, Any]:
    pairing = record.pairing.text if record.pairing else ""
    return vars(record) | {"status": record.status.value, "reason": record.reason.text, "pairing": pairing}


def _vector(vector: Vector) -> dict[str, Any]:
    return vars(vector) | {"reason": vector.reason.text if vector.reason else ""}


def _expected(expected: Forecast | Measured) -> dict[str, Any]:
    return dataclasses.asdict(expected) | {"words": wording.expected_words(expected)}


def _cost(cost: Cost) -> dict[str, Any]:
    return dataclasses.asdict(cost) | {"words": wording.cost_words(cost)}
