"""What a method that runs the models is given to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lorax.checkpoint import Checkpoint
from lorax.low_rank import LowRank
from lorax.models import Model, Models, Pictures, SavedTraining, Watch
from lorax.progress import Meter


@dataclass(frozen=True)
class Assignment:
    """The source layer that a target layer follows, and the rank of the delta that the target layer gets."""

    source: str
    rank: int


class Teacher(Protocol):
    """Draws pictures with the source and the adapter, or has them from an earlier time."""

    def stored(self, count: int) -> Pictures | None:
        """Return ``count`` pictures that were drawn before, or None."""

    def draw(self, source: Model, count: int) -> Pictures:
        """Draw ``count`` pictures, and store them."""


@dataclass(frozen=True)
class Job:
    """An adapter's deltas by source layer, the layers of the target that are assigned one each, and what the work is done with.

    ``start``: deltas by target layer from which a training starts; ``related``: whether the bases are. ``watch`` sees every
    validation of a training, which then does not resume from ``saved``.
    """

    source: Checkpoint
    target: Checkpoint
    deltas: Mapping[str, LowRank]
    assignments: Mapping[str, Assignment]
    models: Models
    teacher: Teacher
    meter: Meter
    pictures: int
    steps: int | None = None
    start: Mapping[str, LowRank] = field(default_factory=dict)
    related: bool = False
    saved: SavedTraining | None = None
    watch: Watch | None = None
