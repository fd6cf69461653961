"""The job of a method that runs the models."""

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
    """The source layer that a target layer imitates, and the rank of the target layer's delta."""

    source: str
    rank: int


class Teacher(Protocol):
    """The source with the adapter, which draws the pictures."""

    def stored(self, count: int) -> Pictures | None:
        """Return ``count`` pictures that were drawn earlier, or None."""

    def draw(self, source: Model, count: int) -> Pictures:
        """Draw and store ``count`` pictures."""


@dataclass(frozen=True)
class Job:
    """A job: the adapter's ``deltas`` by source layer, the ``assignments`` by target layer, and the means to do it.

    A training starts from ``start``, by target layer. ``related``: whether the bases are related. ``watch`` is called at every
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
