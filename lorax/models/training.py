"""Trains factors or scales of an adapter on examples, until held-out ones show no gain."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from lorax.errors import LoraxError
from lorax.low_rank import LowRank
from lorax.models.examples import Examples
from lorax.models.hooks import adapted, recomputed
from lorax.models.optimizer import Factors, Optimizer, Scales
from lorax.models.prompts import Prompts
from lorax.models.protocol import Model, overflowing
from lorax.models.sampling import NoisyBatch, batches
from lorax.progress import TRAINING, Meter

VALIDATE_EVERY = 10  # steps
SAVE_EVERY = 60.0  # seconds at least; a state may be gigabytes
PATIENCE = 5  # validations without a gain, after which training stops
BACKWARD_AT_ONCE = 16  # pictures with a side of 8 that go through a backward pass together
LARGE = 32  # side of latents above which blocks are recomputed, since a graphics card cannot hold their values
Watch = Callable[[int, float, Mapping[str, LowRank]], None]  # step, held-out loss, averaged layers, which change afterwards
State = tuple[dict[str, torch.Tensor], dict[str, str]]


class SavedTraining(Protocol):
    """A place for the state of a training, from which an interrupted one can resume."""

    def load(self) -> State | None:
        """Return the saved state, or None."""

    def save(self, state: State) -> None:
        """Replace the saved state."""


@dataclass(frozen=True)
class Lesson:
    """The examples and settings of a training: at most ``steps``, each on ``batch`` examples, at the learning rate ``rate``."""

    examples: Examples
    steps: int
    batch: int
    rate: float


def train(
    target: Model,
    trained: Factors | Scales,
    lesson: Lesson,
    meter: Meter,
    saved: SavedTraining | None = None,
    watch: Watch | None = None,
) -> dict[str, LowRank]:
    """Minimise the error of the predicted noise over ``trained``; return the averaged layers of the best validation, on the CPU.

    Training resumes from the state in ``saved``, if there is one. It stops after the lesson's steps, or PATIENCE validations
    without a gain. Raises LoraxError if the target's predictions or gradients are not finite.
    """
    run = _Run(target, trained, lesson, meter, watch)
    optimizer = run.optimizer
    resumed = _resumed(optimizer, saved)
    meter.at(optimizer.step, lesson.steps, TRAINING)
    if not resumed:
        run.validate()
    first, saved_at = optimizer.step, time.monotonic()
    while optimizer.step < lesson.steps and optimizer.stale < PATIENCE:
        try:
            meter.at(optimizer.step, lesson.steps, TRAINING)
            run.advance()
        except BaseException:  # most stops are heard while gradients are computed
            _save(optimizer, saved)
            raise
        if optimizer.step % VALIDATE_EVERY == 0 or optimizer.step == lesson.steps:
            run.validate()
            if time.monotonic() - saved_at >= SAVE_EVERY:
                _save(optimizer, saved)
                saved_at = time.monotonic()
    if optimizer.step > first:  # so that its result is there at once if it is asked for again
        _save(optimizer, saved)
    return {layer: dW.to("cpu") for layer, dW in trained.layers(optimizer.best).items()}


class _Run:
    """One training."""

    def __init__(self, target: Model, trained: Factors | Scales, lesson: Lesson, meter: Meter, watch: Watch | None) -> None:
        self.optimizer = Optimizer(trained.parameters, lesson.rate)
        self._target, self._trained, self._lesson, self._meter, self._watch = target, trained, lesson, meter, watch
        self._held_out = lesson.examples.held_out()
        self._prompts = Prompts(target, lesson.examples.prompts, trained.layers(trained.parameters), meter)
        self._blocks = target.blocks() if target.size > LARGE else ()

    def advance(self) -> None:
        """Take one step."""
        batch = self._lesson.examples.at(self.optimizer.step + 1, self._lesson.batch)

        def add_gradient(scale: float) -> None:
            for part in batches(len(batch), self._target.size, BACKWARD_AT_ONCE):
                self._meter.tick()
                layers = self._trained.layers(self._trained.parameters)
                with adapted(self._target, layers), recomputed(self._blocks):
                    torch.autograd.backward(scale * self._loss(batch.rows(part)) / len(batch))

        self.optimizer.advance(add_gradient)

    @torch.no_grad()
    def validate(self) -> None:
        """Validate the averaged layers on the held-out examples. Raises LoraxError if the first loss is not finite."""
        layers, total = self._trained.layers(self.optimizer.average), 0.0
        with adapted(self._target, layers):
            for rows in batches(len(self._held_out), self._target.size):
                self._meter.tick()
                total += self._loss(self._held_out.rows(rows)).item()
        loss = total / len(self._held_out)
        if self.optimizer.step == 0 and not math.isfinite(loss):
            raise LoraxError(overflowing(self._target))
        self.optimizer.validated(loss)
        if self._watch:
            self._watch(self.optimizer.step, loss, layers)

    def _loss(self, batch: NoisyBatch) -> torch.Tensor:
        """Return the sum of the examples' losses, each a mean over its latents."""
        predicted = self._target.predict(batch.latents, batch.times, self._prompts(batch.prompts))
        return (predicted - batch.noise.to(predicted)).square().mean((1, 2, 3)).sum()


def _resumed(optimizer: Optimizer, saved: SavedTraining | None) -> bool:
    """Restore the optimizer from a saved state, and tell whether that was possible."""
    try:
        if (state := saved.load() if saved else None) is None:
            return False
        optimizer.restore(*state)
    except (KeyError, ValueError):  # the state of another version
        return False
    return True


def _save(optimizer: Optimizer, saved: SavedTraining | None) -> None:
    if saved:
        saved.save(optimizer.state())
