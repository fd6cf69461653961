"""Refine: trains the target on pictures that the source draws with the adapter."""

import math
from collections.abc import Mapping

import torch

from lorax.low_rank import LowRank
from lorax.methods.job import Job
from lorax.models import Factors, Lesson, Model, train

# The best ones for unrelated and related bases in docs/behaviour.md.
RATE_UNRELATED, RATE_RELATED = 5e-3, 2e-3
STEPS_UNRELATED, STEPS_RELATED = 150, 10


def fit(job: Job) -> dict[str, LowRank]:
    """Return a delta for each assigned target layer, trained from ``job.start``. Raises LoraxError if a model cannot be run."""
    steps, rate = steps_of(job.steps, job.related), RATE_RELATED if job.related else RATE_UNRELATED
    if (pictures := job.teacher.stored(job.pictures)) is None:
        with job.opened(job.source) as source:
            pictures = job.teacher.draw(source, job.pictures)
    with job.opened(job.target) as target:
        ranks = {layer: assigned.rank for layer, assigned in job.assignments.items()}
        factors = Factors(started(target, job.start, ranks), target.device)
        lesson = Lesson(pictures.latents_in(target, job.meter), pictures.prompts, steps, rate)
        return train(target, factors, lesson, job.meter, None if job.watch else job.saved, job.watch)


def steps_of(asked: int | None, related: bool) -> int:
    """Return the largest number of steps: the user's, or the default."""
    return asked or (STEPS_RELATED if related else STEPS_UNRELATED)


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
