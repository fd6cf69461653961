"""What happened to every layer of an adapter: no skip is silent."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRecord:
    """How one layer of the adapter ended: ``transferred``, ``skipped`` or ``unmatched``, and why."""

    name: str  # as the adapter spells it
    status: str
    reason: str
    norm: float  # ||dW_s||_F
    source: str | None = None
    target: str | None = None
    pairing: str = ""
    similarity: float | None = None
    kept: float | None = None  # ||dW_t||_F / ||dW_s||_F
    subspace_rank: int | None = None
    rank: int | None = None  # of the written factors
    compression_error: float | None = None  # relative, of --max-rank

    def ended(self, status: str, reason: str, **values: float | int) -> LayerRecord:
        return dataclasses.replace(self, status=status, reason=reason, **values)  # type: ignore[arg-type]

    def compressed(self, error: float) -> LayerRecord:
        return dataclasses.replace(self, compression_error=error)

    def written_at(self, rank: int) -> LayerRecord:
        return dataclasses.replace(self, rank=rank)


@dataclass(frozen=True)
class Report:
    """All layers, in the adapter's order. ``declined``: why ``auto`` refused the pair of bases, if it did."""

    records: list[LayerRecord]
    method: str
    declined: str | None = None

    @property
    def coverage(self) -> float:
        """Share of the adapter's squared norm in layers that were transferred."""
        total = sum(record.norm**2 for record in self.records)
        return sum(r.norm**2 for r in self.records if r.status == "transferred") / total if total else 1.0

    def summary(self) -> str:
        counts = Counter(record.status for record in self.records)
        lines = [
            f"{counts['transferred']} of {len(self.records)} layers transferred, "
            f"{self.coverage:.1%} of the adapter's squared norm."
        ]
        for how, count in Counter(_general(r.reason) for r in self.records if r.status == "transferred").most_common():
            lines.append(f"{count} transferred: {how}.")
        for status in ("skipped", "unmatched"):
            for reason, count in Counter(_general(r.reason) for r in self.records if r.status == status).most_common():
                lines.append(f"{count} {status}: {reason}.")
        similar = [record.similarity for record in self.records if record.similarity is not None]
        if similar:
            lines.append(f"Similarity of the paired layers: median {statistics.median(similar):.2f}, lowest {min(similar):.2f}.")
        errors = [record.compression_error for record in self.records if record.compression_error]
        if errors:
            lines.append(
                f"Compression lost {math.sqrt(sum(e * e for e in errors) / len(errors)):.1%} of the delta (root mean square)."
            )
        return "\n".join(lines)

    def table(self) -> str:
        """A line per layer, in columns."""
        rows = [("layer", "from", "status", "similarity", "kept", "reason")]
        for r in self.records:
            rows.append((r.target or "-", r.source or r.name, r.status, _number(r.similarity), _number(r.kept), r.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "declined": self.declined,
            "coverage": self.coverage,
            "counts": Counter(record.status for record in self.records),
            "layers": [dataclasses.asdict(record) for record in self.records],
        }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _general(reason: str) -> str:
    """The reason without the layer's own numbers, so that like reasons are counted together."""
    if reason.startswith("similarity"):
        return "similarity below the threshold" + reason.rpartition("threshold")[2]
    return reason.partition(" (cosine")[0].partition(":")[0].partition(" at rank")[0]
