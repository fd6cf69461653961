"""What ``refine`` is compared with: the target learns to change its prediction as the adapter changes the source's.

On pictures that the source draws *without* the adapter, dW_t minimises ||(y_t' - y_t) - (y_s' - y_s)||^2, with y the predicted
noise and ' for "with the adapter". It needs one latent space, and both models at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from lorax.low_rank import LowRank
from lorax.models import Factors, NoisyBatch, Watch, adapted, captions, draw, noised
from lorax.models.optimizer import Optimizer
from lorax.progress import Meter
from lorax.runner import Runner
from lorax.transfer import Plan

PICTURES, BATCH = 384, 16  # what that study took
EVERY = 10  # steps between what ``watch`` sees


def match_change(
    plan: Plan, start: Mapping[str, LowRank], *, steps: int, rate: float, watch: Watch | None = None
) -> dict[str, LowRank]:
    """Train from ``start``; return the averaged factors after the last step. ``watch`` sees those on the way."""
    source, target = Runner(plan.source.path), Runner(plan.target.path)
    adapter, prompts = plan.adapter.deltas_of(plan.source), captions(PICTURES, plan.running.captions)
    latents = _plain(plan.source.path, tuple(prompts))
    factors = Factors(start, target.device)
    optimizer = Optimizer(factors.parameters, rate)
    while optimizer.step < steps:
        step = optimizer.step + 1
        rows = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(step))[:BATCH]
        batch = noised(target, latents[rows], [prompts[i] for i in rows], len(rows), seed=step)
        wanted = _wanted(source, target, adapter, batch)

        def add_gradient(scale: float, batch: NoisyBatch = batch, wanted: torch.Tensor = wanted) -> None:
            with adapted(target, factors.layers(factors.parameters)):
                torch.autograd.backward(scale * (_predicted(target, batch) - wanted).square().mean())

        optimizer.advance(add_gradient)
        if watch and optimizer.step % EVERY == 0:
            watch(optimizer.step, 0.0, factors.layers(optimizer.average))
    return {layer: LowRank(dW.up.clone(), dW.down.clone()) for layer, dW in factors.layers(optimizer.average).items()}


@cache
def _plain(source: Path, prompts: tuple[str, ...]) -> torch.Tensor:
    """What the source draws alone, which is the same for every adapter."""
    return draw(Runner(source), {}, prompts, Meter())


@torch.no_grad()
def _wanted(source: Runner, target: Runner, adapter: Mapping[str, LowRank], batch: NoisyBatch) -> torch.Tensor:
    """What the target would predict if it changed as the source does."""
    alone = _predicted(source, batch)
    with adapted(source, adapter):
        return _predicted(target, batch) + _predicted(source, batch) - alone


def _predicted(model: Runner, batch: NoisyBatch) -> torch.Tensor:
    return model.predict(batch.latents, batch.times, model.encode(batch.prompts))
