"""Self-distillation: train the target's factors until the target changes its predictions as the source does with the adapter.

No picture of the adapter's training data is needed: both models look at generic pictures that one of them drew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lorax.adapter import LowRank
from lorax.behaviour.content import Content, Tick, fitting
from lorax.behaviour.live import Hook, effect, hooked
from lorax.runner import Runner

BATCH = 16  # a step
DECAY = 0.97  # of the averaged weights, a step
WARMUP = 10  # steps
HELD_OUT = 8  # one picture in so many tells when to stop
EVERY = 25  # steps between looks at it
PATIENCE = 3  # looks without a gain
Watch = Callable[[int, float, Mapping[str, LowRank]], None]  # step, loss on what is held out, the averaged factors


@dataclass(frozen=True)
class Lesson:
    """What the target predicts alone, and by how much it shall change that: both float32 (N, 4, h, w)."""

    content: Content
    alone: torch.Tensor
    change: torch.Tensor


def refine(
    target: Runner,
    start: Mapping[str, LowRank],
    lesson: Lesson,
    *,
    steps: int,
    rate: float,
    tick: Tick,
    watch: Watch = lambda step, loss, layers: None,
) -> dict[str, LowRank]:
    """AdamW from ``start``, for ``steps`` steps or until PATIENCE looks found no gain: the averaged factors of the best look."""
    factors = _Factors(start, target.device)
    average = [factor.detach().clone() for factor in factors.all]
    optimizer = torch.optim.AdamW(factors.all, lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    is_held = torch.arange(len(lesson.content)) % HELD_OUT == 0
    held, shown = is_held.nonzero().flatten(), (~is_held).nonzero().flatten()
    best, chosen, since = _held_loss(target, factors.layers(average), lesson, held), factors.layers(average), 0
    watch(0, best, chosen)
    for step in range(1, steps + 1):
        tick("refining")
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARMUP)
        optimizer.zero_grad(set_to_none=True)
        rows = shown[torch.randint(len(shown), (BATCH,), generator=generator)]
        for part in torch.split(rows, fitting(BATCH, target.size)):  # the gradient of a batch, as much at a time as fits
            torch.autograd.backward(_loss(target, factors.layers(factors.all), lesson, part) * len(part) / BATCH)
        nn.utils.clip_grad_norm_(factors.all, 1.0)
        optimizer.step()
        for mean, factor in zip(average, factors.all, strict=True):
            mean.lerp_(factor.detach(), 1 - DECAY)
        if step % EVERY == 0 or step == steps:
            layers = factors.layers([mean.clone() for mean in average])
            loss, since = _held_loss(target, layers, lesson, held), since + 1
            watch(step, loss, layers)
            if loss < best:
                best, chosen, since = loss, layers, 0
            if since == PATIENCE:
                break
    return {layer: dW.to("cpu") for layer, dW in chosen.items()}


class _Factors:
    """Every layer's up and down, with the scale inside and of like size, so that one rate suits both."""

    def __init__(self, layers: Mapping[str, LowRank], device: torch.device) -> None:
        self._names = list(layers)
        self.all = [nn.Parameter(factor.to(device)) for dW in layers.values() for factor in _even(dW)]

    def layers(self, factors: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """With these values in the place of ``all``."""
        return {name: LowRank(factors[2 * i], factors[2 * i + 1]) for i, name in enumerate(self._names)}


def _even(dW: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Each column of up as long as its row of down."""
    up = dW.scale * dW.up
    ratio = (dW.down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return up * ratio, dW.down / ratio[:, None]


@torch.no_grad()
def _held_loss(target: Runner, layers: Mapping[str, LowRank], lesson: Lesson, rows: torch.Tensor) -> float:
    parts = torch.split(rows, fitting(64, target.size))
    return sum(_loss(target, layers, lesson, part).item() * len(part) for part in parts) / len(rows)


def _loss(target: Runner, layers: Mapping[str, LowRank], lesson: Lesson, rows: torch.Tensor) -> torch.Tensor:
    content = lesson.content.rows(rows)

    def adapting(layer: str) -> Hook:
        return lambda module, x, y: y + effect(module, x, layers[layer])

    with hooked({layer: target.module(layer) for layer in layers}, adapting):
        predicted = target.predict(content.latents, content.times, target.encode(content.prompts))
    goal = lesson.alone[rows] + lesson.change[rows]
    return (predicted - goal.to(predicted)).square().mean()
