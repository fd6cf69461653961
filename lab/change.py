"""What ``refine`` is compared with: the target learns to change its prediction as the adapter changes the source's.

On pictures that the source draws *without* the adapter, dW_t minimises ||(y_t' - y_t) - (y_s' - y_s)||^2, with y the predicted
noise and ' for "with the adapter". It needs one latent space, and both models at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from lorax.transfer.planning import Plan

from lorax.low_rank import LowRank
from lorax.methods.refine import BATCH, Watch
from lorax.models import sampling
from lorax.models.captions import captions
from lorax.models.hooks import adapted
from lorax.models.training import Factors, Training
from lorax.runner.runner import Runner

EVERY = 10  # steps between what is told


def match_change(plan: Plan, start: Mapping[str, LowRank], *, steps: int, rate: float, watch: Watch) -> dict[str, LowRank]:
    """The averaged factors after the last step, from ``start``, and told of on the way."""
    source, target = Runner(plan.source.path), Runner(plan.target.path)
    adapter, prompts = plan.adapter.deltas_of(plan.source), captions(plan.running.pictures, plan.running.captions)
    latents = _plain(plan.source.path, tuple(prompts))
    factors = Factors(start, target.device)
    training = Training(factors.all, rate)
    while training.step < steps:
        step = training.step + 1
        rows = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(step))[:BATCH]
        seen = sampling.noised(target, latents[rows], [prompts[i] for i in rows], len(rows), seed=step)
        wanted = _wanted(source, target, adapter, seen)

        def gradient(scale: float, seen: sampling.Content = seen, wanted: torch.Tensor = wanted) -> None:
            with adapted(target, factors.layers(factors.all)):
                torch.autograd.backward(scale * (_predicted(target, seen) - wanted).square().mean())

        training.advance(gradient)
        if training.step % EVERY == 0:
            watch(training.step, 0.0, factors.layers(training.average))
    return {layer: LowRank(dW.up.clone(), dW.down.clone()) for layer, dW in factors.layers(training.average).items()}


@cache
def _plain(source: Path, prompts: tuple[str, ...]) -> torch.Tensor:
    """What the source draws alone, which is the same for every adapter."""
    return sampling.pictures(Runner(source), {}, prompts, lambda what: None)


@torch.no_grad()
def _wanted(source: Runner, target: Runner, adapter: Mapping[str, LowRank], seen: sampling.Content) -> torch.Tensor:
    """What the target would predict if it changed as the source does."""
    alone = _predicted(source, seen)
    with adapted(source, adapter):
        return _predicted(target, seen) + _predicted(source, seen) - alone


def _predicted(model: Runner, seen: sampling.Content) -> torch.Tensor:
    return model.predict(seen.latents, seen.times, model.encode(seen.prompts))
