"""The job of a method that runs the models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from lorax.checkpoint import Checkpoint
from lorax.low_rank import LowRank
from lorax.models import Answers, Model, Models, Pictures, SavedTraining, Watch, watched
from lorax.progress import Meter, opening


class Kinship(Enum):
    """How the bases are related that an adapter is moved between."""

    RELATIVES = auto()  # one comes from the other's weights, or both from a third's
    STRANGERS = auto()
    CROSSED = auto()  # the latents of one mean something else to the other: of two families, or of two sizes


@dataclass(frozen=True)
class Assignment:
    """The source layer that a target layer imitates, and the rank of the target layer's delta."""

    source: str
    rank: int


class Teacher(Protocol):
    """The source with the adapter, which draws pictures and predicts the noise in them."""

    def stored(self, count: int) -> Pictures | None:
        """Return ``count`` pictures that were drawn earlier, or None."""

    def draw(self, source: Model, count: int) -> Pictures:
        """Draw and store ``count`` pictures."""

    def stored_answers(self, count: int) -> Answers | None:
        """Return answers on ``count`` pictures that were given earlier, or None."""

    def answer(self, source: Model, count: int) -> Answers:
        """Draw ``count`` pictures, and give and store the answers on them."""


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
    kinship: Kinship = Kinship.STRANGERS  # of the bases
    saved: SavedTraining | None = None
    watch: Watch | None = None  # called at every validation of a training, which then does not resume from ``saved``

    @contextmanager
    def opened(self, base: Checkpoint) -> Iterator[Model]:
        """Open a base for the length of the block, within which a stop works at every layer."""
        self.meter.at(0, 1, opening(base.path.stem))
        with self.models.opened(base) as model, watched(model, self.meter):
            yield model
