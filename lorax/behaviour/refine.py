"""Self-distillation: train the target's factors until the target changes its predictions as the source does with the adapter.

No picture of the adapter's training data is needed: both models look at generic pictures that one of them drew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
    factors = _Factors(start).to(target.device)
    average = AveragedModel(factors, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    optimizer = torch.optim.AdamW(factors.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    is_held = torch.arange(len(lesson.content)) % HELD_OUT == 0
    held, shown = is_held.nonzero().flatten(), (~is_held).nonzero().flatten()
    best, chosen, since = _held_loss(target, factors, lesson, held), factors.layers(), 0
    watch(0, best, chosen)
    for step in range(1, steps + 1):
        tick("refining")
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARMUP)
        optimizer.zero_grad(set_to_none=True)
        _accumulate(target, factors, lesson, shown[torch.randint(len(shown), (BATCH,), generator=generator)])
        nn.utils.clip_grad_norm_(factors.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(factors)
        if step % EVERY == 0 or step == steps:
            loss, since = _held_loss(target, average.module, lesson, held), since + 1
            watch(step, loss, layers := average.module.layers())
            if loss < best:
                best, chosen, since = loss, layers, 0
            if since == PATIENCE:
                break
    return chosen


class _Factors(nn.Module):
    """The up and down of every layer, with the scale inside and of like size, so that one rate suits both."""

    def __init__(self, layers: Mapping[str, LowRank]) -> None:
        super().__init__()
        self.names = list(layers)
        pairs = [_even(dW) for dW in layers.values()]
        self.up = nn.ParameterList([up for up, _ in pairs])
        self.down = nn.ParameterList([down for _, down in pairs])

    def live(self) -> dict[str, LowRank]:
        return {name: LowRank(up, down) for name, up, down in zip(self.names, self.up, self.down, strict=True)}

    def layers(self) -> dict[str, LowRank]:
        """As they are now, on the CPU."""
        return {
            name: LowRank(dW.up.detach().cpu().clone(), dW.down.detach().cpu().clone()) for name, dW in self.live().items()
        }


def _even(dW: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Each column of up as long as its row of down."""
    up = dW.scale * dW.up
    ratio = (dW.down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return up * ratio, dW.down / ratio[:, None]


def _accumulate(target: Runner, factors: _Factors, lesson: Lesson, rows: torch.Tensor) -> None:
    """The gradient of a batch, as many pictures at a time as fit."""
    for part in rows.split(fitting(BATCH, target.size)):
        (_loss(target, factors, lesson, part) * len(part) / len(rows)).backward()


@torch.no_grad()
def _held_loss(target: Runner, factors: _Factors, lesson: Lesson, rows: torch.Tensor) -> float:
    parts = rows.split(fitting(64, target.size))
    return sum(_loss(target, factors, lesson, part).item() * len(part) for part in parts) / len(rows)


def _loss(target: Runner, factors: _Factors, lesson: Lesson, rows: torch.Tensor) -> torch.Tensor:
    layers, content = factors.live(), lesson.content.rows(rows)

    def adapting(layer: str) -> Hook:
        return lambda module, x, y: y + effect(module, x, layers[layer])

    with hooked({layer: target.module(layer) for layer in layers}, adapting):
        predicted = target.predict(content.latents, content.times, target.encode(content.prompts))
    goal = lesson.alone[rows] + lesson.change[rows]
    return (predicted - goal.to(predicted)).square().mean()
