"""The report's words: per status and reason how many layers, and how much of the adapter."""

from __future__ import annotations

import dataclasses

import pytest

from lorax.transfer.report import LayerRecord, Report


def record(name: str, status: str, reason: str, norm: float, pairing: str = "") -> LayerRecord:
    source, target = f"unet.s{name}", f"unet.t{name}" if pairing else None
    return LayerRecord(name, status, reason, norm, source=source, target=target, pairing=pairing)


RECORDS = [
    record("1", "transferred", "projected at rank 5: 97% of the delta lies in the target's subspace", 6.0, "same name"),
    record("2", "transferred", "projected at rank 7: 99% of the delta lies in the target's subspace", 2.0, "same name"),
    record("3", "transferred", "copied: a projection would keep only 31% of the delta", 2.0, "weights most alike of 5 blocks"),
    record("4", "skipped", "similarity 0.31 is below the threshold 0.8", 4.0, "same name"),
    record("5", "skipped", "similarity -0.02 is below the threshold 0.8", 2.0, "same name"),
    record("6", "unmatched", "the target's blocks are more like other blocks (cosine at most 0.12)", 4.0),
    record("8", "skipped", "shapes differ ((4, 8) and (6, 8)); name lorax to try the least-squares map", 0.0, "same name"),
    record("9", "skipped", "shapes differ ((8, 4) and (8, 6)); name lorax to try the least-squares map", 0.0, "same name"),
    record("7", "transferred", "carried by the least-squares map at rank 5; similarity is undefined", 0.0, "same name"),
]


def test_summary() -> None:
    assert Report(RECORDS, "lorax").summary().splitlines() == [
        "4 of 9 layers transferred, 55.0% of the adapter's squared norm.",
        "  2 (50.0%): projected.",
        "  1 (5.0%): copied.",
        "  1 (0.0%): carried by the least-squares map; similarity is undefined.",
        "4 of 9 layers skipped, 25.0% of the adapter's squared norm.",
        "  2 (25.0%): similarity below the threshold 0.8.",
        "  2 (0.0%): shapes differ; name lorax to try the least-squares map.",
        "1 of 9 layers unmatched, 20.0% of the adapter's squared norm.",
        "  1 (20.0%): the target's blocks are more like other blocks.",
    ]


def test_an_adapter_of_zeros_is_counted_by_layers() -> None:
    zeros = [record("1", "transferred", "copied", 0.0), record("2", "unmatched", "the target has no te", 0.0)]
    report = Report(zeros, "copy")
    assert report.coverage == 0.5
    assert "1 of 2 layers unmatched, 50.0%" in report.summary()


def test_compression_is_weighted_by_norms() -> None:
    """Over all that was moved, with what kept its rank too, as one would measure it on the whole adapters."""
    moved = [
        dataclasses.replace(record("1", "transferred", "copied", 2.0), kept=1.5, compression_error=0.5),
        dataclasses.replace(record("2", "transferred", "copied", 4.0), kept=1.0, compression_error=0.0),
        record("3", "skipped", "similarity 0.31 is below the threshold 0.8", 100.0),
    ]
    assert Report(moved, "copy").compression_error == pytest.approx(1.5 / 5)  # 3 * 0.5 of sqrt(3^2 + 4^2)
    assert "Compression lost 30.0% of the transferred delta's norm." in Report(moved, "copy").summary()
    assert "Compression" not in Report(moved[1:], "copy").summary()
    assert "Compression" not in Report(RECORDS, "lorax").summary()


def test_table_says_why_layers_are_paired() -> None:
    header, *lines = Report(RECORDS, "lorax").table().splitlines()
    assert header.split() == ["layer", "from", "pairing", "status", "similarity", "kept", "reason"]
    for line, r in zip(lines, RECORDS, strict=True):
        assert line[header.index("pairing") :].startswith(r.pairing or "-")
        assert line.endswith(r.reason)


def test_coverage() -> None:
    assert Report(RECORDS, "lorax").coverage == pytest.approx(0.55)
