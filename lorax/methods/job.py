"""The job of a method that runs the models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from lorax.checkpoint import Checkpoint
from lorax.low_rank import LowRank
from lorax.models import Model, Models, Pictures, SavedTraining, Watch, watched
from lorax.progress import Meter, opening


class Kinship(Enum):
    """How the bases are related that an adapter is moved between, by the layers that it changes."""

    CLOSE = auto()  # one comes from the other's weights, and the layers have the same names
    REBUILT = auto()  # one comes from the other's weights, and layers have other names, as in small-sd
    NONE = auto()


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
    """A job, with the means to do it."""

    source: Checkpoint
    target: Checkpoint
    deltas: Mapping[str, LowRank]  # by source layer
    assignments: Mapping[str, Assignment]  # by target layer
    models: Models
    teacher: Teacher
    meter: Meter
    pictures: int
    steps: int | None = None
    start: Mapping[str, LowRank] = field(default_factory=dict)  # by target layer, from which a training starts
    kinship: Kinship = Kinship.NONE  # of the bases
    saved: SavedTraining | None = None
    watch: Watch | None = None  # called at every validation of a training, which then does not resume from ``saved``

    @contextmanager
    def opened(self, base: Checkpoint) -> Iterator[Model]:
        """Open a base for the length of the block, within which a stop works at every layer."""
        self.meter.at(0, 1, opening(base.path.stem))
        with self.models.opened(base) as model, watched(model, self.meter):
            yield model
