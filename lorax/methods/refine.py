"""Refine: trains the target on what the source draws with the adapter.

Within a family the target learns what the source predicts on these pictures (``lorax.models.examples.Answers``). To another
family, whose latents mean something else, it learns the pictures themselves.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lorax.low_rank import LowRank
from lorax.methods.job import Job, Kinship
from lorax.models import Answers, Examples, Factors, Lesson, Model, NewNoise, Pictures, train

BATCH = 8  # examples a step


@dataclass(frozen=True)
class Effort:
    """How many pictures the source draws, how many steps the training takes at most, and its learning rate."""

    pictures: int
    steps: int
    rate: float


# What showed most in docs/seen.md on the styles for choosing, or as much for less.
EFFORTS = {
    Kinship.RELATIVES: Effort(64, 100, 2e-3),
    Kinship.STRANGERS: Effort(64, 100, 5e-3),
    Kinship.CROSSED: Effort(256, 100, 5e-3),
}

SAME_LATENTS = frozenset({Kinship.RELATIVES, Kinship.STRANGERS})  # of which one can learn what the other predicts


def fit(job: Job) -> dict[str, LowRank]:
    """Return a delta for each assigned target layer, trained from ``job.start``. Raises LoraxError if a model cannot be run."""
    steps, rate = steps_of(job.steps, job.kinship), EFFORTS[job.kinship].rate
    taught = _taught(job)
    with job.opened(job.target) as target:
        ranks = {layer: assigned.rank for layer, assigned in job.assignments.items()}
        factors = Factors(started(target, job.start, ranks), target.device)
        lesson = Lesson(_examples(taught, target, job), steps, BATCH, rate)
        return train(target, factors, lesson, job.meter, None if job.watch else job.saved, job.watch)


def _taught(job: Job) -> Pictures | Answers:
    """Return what the source draws or predicts. It is opened only if that is not stored."""
    teacher = job.teacher
    stored: Callable[[int], Pictures | Answers | None]
    made: Callable[[Model, int], Pictures | Answers]
    stored, made = (teacher.stored_answers, teacher.answer) if job.kinship in SAME_LATENTS else (teacher.stored, teacher.draw)
    if (taught := stored(job.pictures)) is None:
        with job.opened(job.source) as source:
            taught = made(source, job.pictures)
    return taught


def _examples(taught: Pictures | Answers, target: Model, job: Job) -> Examples:
    if isinstance(taught, Answers):
        return taught
    return NewNoise(target, taught.latents_in(target, job.meter), taught.prompts)


def pictures_of(asked: int | None, kinship: Kinship) -> int:
    """Return how many pictures the source draws: the user's number, or the default."""
    return asked or EFFORTS[kinship].pictures


def steps_of(asked: int | None, kinship: Kinship) -> int:
    """Return the largest number of steps: the user's, or the default."""
    return asked or EFFORTS[kinship].steps


def started(target: Model, start: Mapping[str, LowRank], ranks: Mapping[str, int]) -> dict[str, LowRank]:
    """Return deltas of these ranks by layer that are equal or nearest to those in ``start``; 0 for layers that it lacks."""
    layers = {layer: dW.compressed(ranks[layer])[0] for layer, dW in start.items()}
    missing = {layer: rank - (layers[layer].rank if layer in layers else 0) for layer, rank in ranks.items()}
    for layer, more in blank(target, {layer: rank for layer, rank in missing.items() if rank > 0}).items():
        dW = layers.get(layer)
        up, down = (dW.scale * dW.up, dW.down) if dW else (more.up[:, :0], more.down[:0])
        layers[layer] = LowRank(torch.cat([up, more.up], 1), torch.cat([down, more.down]))
    return layers


def blank(target: Model, ranks: Mapping[str, int]) -> dict[str, LowRank]:
    """Return deltas of 0 from which training can start: up is 0, down is random."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for layer, rank in ranks.items():
        m, n = target.base.matrix(layer)
        layers[layer] = LowRank(torch.zeros(m, rank), torch.randn(rank, n, generator=generator) / math.sqrt(n))
    return layers
