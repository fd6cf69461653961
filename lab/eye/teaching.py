"""Helps ideas that run the models: plans them, has the source predict, and takes the error of what the target predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from lab import variants
from lab.variants import Variant
from lab.zoo import Adapter, checkpoint
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.low_rank import LowRank
from lorax.methods import AUTO, refine
from lorax.models import Answers, Factors, Model, NoisyBatch, draw
from lorax.options import Options
from lorax.progress import Meter
from lorax.runner import Runner
from lorax.transfer import Layers, Moved, Plan, run
from lorax.transfer.assignment import assignments
from lorax.transfer.teaching import prompts_of


def moved_as(variant: Variant, adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    return variants.move(variant, adapter, source, open_checkpoint(checkpoint(source)), target)


def with_layers(moved: Moved, layers: Iterable[tuple[str, LowRank]]) -> Moved:
    return dataclasses.replace(moved, layers=Layers.of(layers))


def to_train(planned: Plan) -> tuple[Runner, dict[str, int], Factors]:
    """The target, the rank of each trained layer, and factors that start where refine does: from ``auto``, else from 0."""
    start = run(dataclasses.replace(planned, options=Options(AUTO))).layers
    model, ranks = Runner(planned.target.path), {layer: one.rank for layer, one in assignments(planned).items()}
    return model, ranks, Factors(refine.started(model, start, ranks), model.device)


def answers_of(planned: Plan, pictures: int) -> Answers:
    """What the source predicts with the adapter, on so many pictures that it draws with it."""
    deltas = planned.adapter.deltas_of(planned.source)
    return predicted(planned.source.path, deltas, prompts_of(planned, pictures))


def predicted(source: Path, adapter: Mapping[str, LowRank], prompts: Sequence[str]) -> Answers:
    model = Runner(source)
    return Answers.of(model, adapter, draw(model, adapter, prompts, Meter()), prompts, Meter())


def error(model: Model, batch: NoisyBatch) -> torch.Tensor:
    """The mean squared error of what a model predicts in a batch."""
    found = model.predict(batch.latents, batch.times, model.encode(batch.prompts))
    return (found - batch.noise.to(found)).square().mean()
