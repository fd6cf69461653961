"""What happened to every layer of an adapter: no skip is silent."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorax.pairing.vectors import Vector
from lorax.transfer.forecast import Forecast, Measured, forecast

if TYPE_CHECKING:
    from lorax.transfer.cost import Cost

EXPECT = "From weights alone, expect little or nothing of the LoRA's effect there, or harm."


@dataclass(frozen=True)
class LayerRecord:
    """How one layer of the adapter ended: ``transferred``, ``skipped`` or ``unmatched``, and why."""

    name: str  # as the adapter spells it
    status: str
    reason: str
    norm: float  # ||dW_s||_F; 0 where that depends on a layer that the source lacks
    source: str | None = None
    target: str | None = None
    pairing: str = ""  # why this target layer
    similarity: float | None = None
    overlap: float | None = None  # share of dW_s that the target has already, <W_t - W_s, dW_s> / ||dW_s||_F^2
    kept: float | None = None  # ||dW_t||_F / ||dW_s||_F, before the strength of the whole
    subspace_rank: int | None = None  # r of the projection; None for a copy
    rank: int | None = None  # of the written factors
    compression_error: float | None = None  # relative, of cutting to the largest rank

    def ended(self, status: str, reason: str, **values: float | int | None) -> LayerRecord:
        return dataclasses.replace(self, status=status, reason=reason, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Proposal:
    """Another method that moves what was declined: what it was worth between such bases, and what it takes."""

    method: str
    worth: Measured
    cost: Cost

    @property
    def words(self) -> str:
        return f"{self.method} takes {self.cost.words}; {self.worth.amount}."

    def as_json(self) -> dict[str, Any]:
        told = {"forecast": _told(self.worth), "cost": _told(self.cost)}
        return {"method": self.method, **told}


@dataclass(frozen=True)
class Report:
    """All layers, in the adapter's order.

    ``declined``: why ``auto`` moves nothing, if so: the bases are strangers, or the target has the adapter already.
    ``unrelated``: why the bases are no relatives, if so, whatever the method did. ``mismatch``: what must be known where they do
    not predict the same. ``strength``: what all moved layers were multiplied with. ``embeddings``: bundled ones that go along as
    they are. ``vectors``: the norms and biases, which go along as they are or are left out. ``beside``: how many layers are
    changed that the adapter leaves alone. ``kind``: of the pair of bases, where the method runs them. ``cost``: what a transfer
    would take, where no model has run yet. ``proposals``: of what was declined.
    """

    records: list[LayerRecord]
    method: str
    declined: str | None = None
    unrelated: str | None = None
    mismatch: str | None = None
    strength: float = 1.0
    embeddings: tuple[str, ...] = ()
    vectors: tuple[Vector, ...] = ()
    beside: int = 0
    kind: str | None = None
    cost: Cost | None = None
    proposals: tuple[Proposal, ...] = ()

    @property
    def refusal(self) -> str | None:
        """Why nothing is moved, and what can be done about it."""
        if not (self.declined and self.unrelated):
            return self.declined
        others = " ".join(proposal.words for proposal in self.proposals)
        can = f" What runs both models can; choose it as the method: {others}" if others else ""
        return f"{self.declined}{can} To try weights all the same, choose a method that goes by them alone."

    @property
    def overlap(self) -> float:
        """Share of the adapter that the target has already, over the layers that were transferred; 0 where nothing was."""
        known = [(r.norm**2, r.overlap) for r in self.records if r.status == "transferred" and r.overlap is not None]
        total = sum(weight for weight, _ in known)
        return sum(weight * overlap for weight, overlap in known) / total if total > 0 else 0.0

    @property
    def coverage(self) -> float:
        """Share of the adapter's squared norm in layers that were transferred."""
        return self._share([record for record in self.records if record.status == "transferred"])

    @property
    def compression_error(self) -> float:
        """What the largest rank lost of the transferred delta, relative to its norm over all layers."""
        moved = [(r.norm * (r.kept or 0.0), r.compression_error or 0.0) for r in self.records if r.status == "transferred"]
        total = math.hypot(*(norm for norm, _ in moved))
        return math.hypot(*(norm * error for norm, error in moved)) / total if total > 0 else 0.0

    def summary(self) -> str:
        """Per status and per reason, how many layers and how much of the adapter's squared norm; then the measurements."""
        lines = []
        for status in ("transferred", "skipped", "unmatched"):
            records = [record for record in self.records if record.status == status]
            if not records and status != "transferred":
                continue
            share = self._share(records)
            lines.append(f"{len(records)} of {len(self.records)} layers {status}, {share:.1%} of the adapter's squared norm.")
            alike: dict[str, list[LayerRecord]] = defaultdict(list)
            for record in records:
                alike[_general(record.reason)].append(record)
            for reason, group in sorted(alike.items(), key=lambda item: -len(item[1])):
                lines.append(f"  {len(group)} ({self._share(group):.1%}): {reason}.")
        similar = [record.similarity for record in self.records if record.similarity is not None]
        if similar:
            lines.append(f"Similarity of the paired layers: median {statistics.median(similar):.2f}, lowest {min(similar):.2f}.")
        if self.strength != 1:
            lines.append(
                f"The target already has {self.overlap:.0%} of what the LoRA adds. That is left out: the result is as strong as "
                f"a copy at {self.strength:.2f}."
            )
        if lost := self.compression_error:
            lines.append(f"Compression lost {lost:.1%} of the transferred delta's norm.")
        if self.vectors:
            lines.append(
                f"{sum(vector.target is not None for vector in self.vectors)} of {len(self.vectors)} norms and biases carried "
                "over as they are."
            )
            left = Counter(str(vector.reason) for vector in self.vectors if vector.target is None)
            lines += [f"  {count} left out: {reason}." for reason, count in left.most_common()]
        if self.embeddings:
            lines.append(f"Carried over as they are: the embeddings {', '.join(self.embeddings)}.")
        if self.beside:
            lines.append(
                f"Changed as well, beside the LoRA's own layers: {self.beside}, which make up for those that have no counterpart."
            )
        if self.unrelated and not self.declined:
            lines.append(self.unrelated if self.kind else f"{self.unrelated} {EXPECT}")
        if self.mismatch:
            lines.append(self.mismatch)
        if expected := forecast(self):
            lines.append(expected.words)
        if self.cost:
            lines.append(f"No model was run for this. A transfer takes {self.cost.words}.")
        return "\n".join(lines)

    def table(self) -> str:
        """A line per layer, in columns."""
        rows = [("layer", "from", "pairing", "status", "similarity", "kept", "reason")]
        for r in self.records:
            names = r.target or "-", r.source or r.name, r.pairing or "-"
            rows.append((*names, r.status, _number(r.similarity), _number(r.kept), r.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)

    def as_json(self) -> dict[str, Any]:
        expected = forecast(self)
        return {
            "method": self.method,
            "declined": self.declined,
            "unrelated": self.unrelated,
            "mismatch": self.mismatch,
            "overlap": self.overlap,
            "strength": self.strength,
            "coverage": self.coverage,
            "embeddings": self.embeddings,
            "beside": self.beside,
            "vectors": [vars(vector) | {"reason": str(vector.reason or "")} for vector in self.vectors],
            "forecast": _told(expected) if expected else None,
            "cost": _told(self.cost) if self.cost else None,
            "proposals": [proposal.as_json() for proposal in self.proposals],
            "counts": Counter(record.status for record in self.records),
            "layers": [dataclasses.asdict(record) for record in self.records],
        }

    def _share(self, records: list[LayerRecord]) -> float:
        """Of the adapter's squared norm; of an adapter that is zero everywhere, of its layers."""
        weights = [record.norm**2 for record in self.records]
        return sum(r.norm**2 for r in records) / sum(weights) if any(weights) else len(records) / len(self.records)


def _told(figures: Forecast | Measured | Cost) -> dict[str, Any]:
    return dataclasses.asdict(figures) | {"words": figures.words}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _general(reason: str) -> str:
    """The reason without the layer's own numbers, so that like reasons are counted together."""
    return re.sub(r" \(cosine [^)]*\)|(?<=^shapes differ) \(.*\)| at rank \d+|: [^;]*|(?<=^similarity) \S+ is", "", reason)
