"""Reports on every layer of an adapter, as data."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lorax.checkpoint import Mismatch
from lorax.pairing import Vector
from lorax.reasons import Reason
from lorax.transfer.expected import Cost, Forecast, Measured, Proposal


class Status(str, Enum):
    """The end of a layer."""

    TRANSFERRED = "transferred"
    SKIPPED = "skipped"
    UNMATCHED = "unmatched"


@dataclass(frozen=True)
class LayerRecord:
    """One layer of the adapter: its end, the reason, and measurements."""

    name: str  # as the adapter spells it
    status: Status
    reason: Reason
    norm: float  # ||dW_s||_F; 0 if that depends on a layer that the source lacks
    source: str | None = None
    target: str | None = None
    pairing: Reason | None = None  # why this target layer
    similarity: float | None = None
    overlap: float | None = None  # share of dW_s that the target has already, <W_t - W_s, dW_s> / ||dW_s||_F^2
    kept: float | None = None  # ||dW_t||_F / ||dW_s||_F, without the report's ``strength``
    subspace_rank: int | None = None  # r of the projection; None for a copy
    rank: int | None = None  # of the written factors
    compression_error: float | None = None  # relative error of cutting to the largest rank

    @property
    def is_transferred(self) -> bool:
        return self.status is Status.TRANSFERRED

    def ended(self, status: Status, reason: Reason, **values: float | int | None) -> "LayerRecord":
        """Return the record with another end."""
        return dataclasses.replace(self, status=status, reason=reason, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Unrelated:
    """Two unrelated bases, with the median similarity of their layers in a component; None if no layers are comparable."""

    source: Path
    target: Path
    component: str
    similarity: float | None


@dataclass(frozen=True)
class AlreadyThere:
    """A target that has nearly all of the adapter already; ``overlap`` is the share."""

    target: Path
    adapter: Path
    overlap: float


@dataclass(frozen=True)
class Report:
    """The report on an adapter: the records of all its layers, in its order, and facts about the whole."""

    records: list[LayerRecord]
    method: str
    declined: Unrelated | AlreadyThere | None = None  # why nothing is moved, if the method declines
    unrelated: Unrelated | None = None  # why the bases are unrelated, if so, whatever the method did
    mismatch: Mismatch | None = None  # the bases' predictions, if they differ
    strength: float = 1.0  # factor of all moved layers
    saved_strength: float = 1.0  # factor that the user chose for the written file
    embeddings: tuple[str, ...] = ()  # names of the bundled embeddings, which are carried over as they are
    vectors: tuple[Vector, ...] = ()  # norms and biases, carried over as they are or left out
    draws_as_original: bool = False  # whether the original draws the same on the target, at this strength
    extra_layers: int = 0  # changed layers that the adapter itself does not change
    kind: str | None = None  # kind of the pair of bases, if the method runs them
    cost: Cost | None = None  # estimated cost, if no model has run yet
    proposals: tuple[Proposal, ...] = ()  # other methods, if the transfer was declined
    expected: Forecast | Measured | None = None  # the forecast, if comparable transfers were measured

    @property
    def overlap(self) -> float:
        """Share of the adapter that the target has already, over the transferred layers; 0 if there are none."""
        measured = [(r.norm**2, r.overlap) for r in self.records if r.is_transferred and r.overlap is not None]
        total = sum(weight for weight, _ in measured)
        return sum(weight * overlap for weight, overlap in measured) / total if total > 0 else 0.0

    @property
    def coverage(self) -> float:
        """Share of the adapter's squared norm in transferred layers."""
        return self.share(record for record in self.records if record.is_transferred)

    @property
    def compression_error(self) -> float:
        """Error of cutting to the largest rank, relative to the norm of the transferred delta over all layers."""
        moved = [(r.norm * (r.kept or 0.0), r.compression_error or 0.0) for r in self.records if r.is_transferred]
        total = math.hypot(*(norm for norm, _ in moved))
        return math.hypot(*(norm * error for norm, error in moved)) / total if total > 0 else 0.0

    def share(self, records: Iterable[LayerRecord]) -> float:
        """Return the share of the adapter's squared norm in these layers; of its layers if the adapter is 0 everywhere."""
        chosen, weights = list(records), [record.norm**2 for record in self.records]
        return sum(r.norm**2 for r in chosen) / sum(weights) if any(weights) else len(chosen) / len(self.records)
