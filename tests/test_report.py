"""The report's words: per status and reason how many layers, and how much of the adapter."""

from __future__ import annotations

import dataclasses

import pytest

from lorax.reasons import Reason, Why
from lorax.transfer import LayerRecord, Report, Status, wording


def record(name: str, status: Status, reason: Reason, norm: float, pairing: Reason | None = None) -> LayerRecord:
    source, target = f"unet.s{name}", f"unet.t{name}" if pairing else None
    return LayerRecord(name, status, reason, norm, source=source, target=target, pairing=pairing)


COPIED, SAME_NAME = Reason(Why.COPIED), Reason(Why.SAME_NAME)


def below(similarity: float) -> Reason:
    return Reason(Why.BELOW_THRESHOLD, {"similarity": similarity, "threshold": 0.8})


RECORDS = [
    record("1", Status.TRANSFERRED, Reason(Why.PROJECTED_INSIDE, {"rank": 5, "share": 0.97}), 6.0, SAME_NAME),
    record("2", Status.TRANSFERRED, Reason(Why.PROJECTED_INSIDE, {"rank": 7, "share": 0.99}), 2.0, SAME_NAME),
    record(
        "3",
        Status.TRANSFERRED,
        Reason(Why.COPIED_NOT_PROJECTED, {"share": 0.31}),
        2.0,
        Reason(Why.WEIGHTS_MOST_ALIKE, {"blocks": 5, "cosine": 0.9}),
    ),
    record("4", Status.SKIPPED, below(0.31), 4.0, SAME_NAME),
    record("5", Status.SKIPPED, below(-0.02), 2.0, SAME_NAME),
    record("6", Status.UNMATCHED, Reason(Why.OTHER_BLOCKS_MORE_ALIKE, {"cosine": 0.12}), 4.0),
    record("8", Status.SKIPPED, Reason(Why.NOT_BY_AUTO, {"source": (4, 8), "target": (6, 8)}), 0.0, SAME_NAME),
    record("9", Status.SKIPPED, Reason(Why.NOT_BY_AUTO, {"source": (8, 4), "target": (8, 6)}), 0.0, SAME_NAME),
    record("7", Status.TRANSFERRED, Reason(Why.CARRIED, {"rank": 5}).but(Reason(Why.NOT_GATED)), 0.0, SAME_NAME),
]


def test_summary() -> None:
    assert wording.summary(Report(RECORDS, "lorax")).splitlines() == [
        "4 of 9 layers moved, 55.0% of what the LoRA changes.",
        "  2 (50.0%): projected.",
        "  1 (5.0%): copied.",
        "  1 (0.0%): carried by the least-squares map; similarity is undefined for unequal shapes, so not gated.",
        "4 of 9 layers left out, 25.0% of what the LoRA changes.",
        "  2 (25.0%): similarity below the threshold 0.8.",
        "  2 (0.0%): shapes differ; name lorax to try the least-squares map.",
        "1 of 9 layers without a counterpart, 20.0% of what the LoRA changes.",
        "  1 (20.0%): the target's blocks are more like other blocks.",
    ]


def test_an_adapter_of_zeros_is_counted_by_layers() -> None:
    lacking = Reason(Why.NO_COMPONENT, {"component": "te"})
    zeros = [record("1", Status.TRANSFERRED, COPIED, 0.0), record("2", Status.UNMATCHED, lacking, 0.0)]
    report = Report(zeros, "copy")
    assert report.coverage == 0.5
    assert "1 of 2 layers without a counterpart, 50.0%" in wording.summary(report)


def test_compression_is_weighted_by_norms() -> None:
    """Over all that was moved, with what kept its rank too, as one would measure it on the whole adapters."""
    moved = [
        dataclasses.replace(record("1", Status.TRANSFERRED, COPIED, 2.0), kept=1.5, compression_error=0.5),
        dataclasses.replace(record("2", Status.TRANSFERRED, COPIED, 4.0), kept=1.0, compression_error=0.0),
        record("3", Status.SKIPPED, below(0.31), 100.0),
    ]
    assert Report(moved, "copy").compression_error == pytest.approx(1.5 / 5)  # 3 * 0.5 of sqrt(3^2 + 4^2)
    assert "Cutting the LoRA to its largest rank lost 30.0% of its strength." in wording.summary(Report(moved, "copy"))
    assert "largest rank" not in wording.summary(Report(moved[1:], "copy"))
    assert "largest rank" not in wording.summary(Report(RECORDS, "lorax"))


def test_table_says_why_layers_are_paired() -> None:
    header, *lines = wording.table(Report(RECORDS, "lorax")).splitlines()
    assert header.split() == ["layer", "from", "pairing", "status", "similarity", "kept", "reason"]
    for line, r in zip(lines, RECORDS, strict=True):
        assert line[header.index("pairing") :].startswith(str(r.pairing or "-"))
        assert line.endswith(r.reason.text)


def test_coverage() -> None:
    assert Report(RECORDS, "lorax").coverage == pytest.approx(0.55)
