"""Retraining without the training data: the target learns the adapter from pictures that the source draws with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from lorax.adapter import LowRank
from lorax.behaviour.conditioning import Prompts
from lorax.behaviour.content import Content, Tick, chunks, noised
from lorax.behaviour.live import adapted, recomputed
from lorax.behaviour.model import Model
from lorax.behaviour.scaling import LossScale

BATCH = 16  # a step
DECAY = 0.97  # of the averaged factors, a step
WARMUP = 10  # steps
HELD_OUT = 8  # one picture in so many tells when to stop
REPEATS = 4  # under so many noises
EVERY = 25  # steps between looks at it
PATIENCE = 3  # looks without a gain
LARGE = 32  # latents, a side: above it, a card's memory does not hold what a backward pass needs
Watch = Callable[[int, float, Mapping[str, LowRank]], None]  # step, loss on what is held out, the averaged factors


def refine(
    target: Model,
    start: Mapping[str, LowRank],
    latents: torch.Tensor,
    prompts: Sequence[str],
    *,
    steps: int,
    rate: float,
    tick: Tick,
    watch: Watch = lambda step, loss, layers: None,
) -> dict[str, LowRank]:
    """Minimise the denoising loss of pictures, scaled latents (P, 4, h, w), with prompts over every layer's factors.

    AdamW from ``start``, for ``steps`` steps or until PATIENCE looks found no gain; returns the averaged factors of the best.
    """
    factors = _Factors(start, target.device)
    average = [factor.detach().clone() for factor in factors.all]
    optimizer = torch.optim.AdamW(factors.all, lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
    is_held = torch.arange(len(prompts)) % HELD_OUT == 0
    held, shown = is_held.nonzero().flatten(), (~is_held).nonzero().flatten()
    judged = noised(target, latents[held], [prompts[i] for i in held], REPEATS * len(held), seed=0)
    said, scale = Prompts(target, prompts, start), LossScale()
    blocks = target.blocks() if target.size > LARGE else ()
    best, chosen, since = _judge(target, factors.layers(average), judged, said), factors.copied(average), 0
    watch(0, best, chosen)
    for step in range(1, steps + 1):
        tick("training")
        rows = shown[torch.randperm(len(shown), generator=torch.Generator().manual_seed(step))[:BATCH]]
        batch = noised(target, latents[rows], [prompts[i] for i in rows], len(rows), seed=step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARMUP)
        optimizer.zero_grad(set_to_none=True)
        for part in chunks(len(batch), target.size, BATCH):  # the gradient of a batch, as much at a time as fits
            with adapted(target, factors.layers(factors.all)), recomputed(blocks):
                torch.autograd.backward(scale.value * _loss(target, batch.rows(part), said) / len(batch))
        scale.step(optimizer, factors.all)
        for mean, factor in zip(average, factors.all, strict=True):
            mean.lerp_(factor.detach(), 1 - DECAY)
        if step % EVERY == 0 or step == steps:
            layers = factors.copied(average)
            loss, since = _judge(target, layers, judged, said), since + 1
            watch(step, loss, layers)
            if loss < best:
                best, chosen, since = loss, layers, 0
            if since == PATIENCE:
                break
    return {layer: dW.to("cpu") for layer, dW in chosen.items()}


def blank(target: Model, ranks: Mapping[str, int]) -> dict[str, LowRank]:
    """A delta of zero for every layer, from which training can start: up is zero, down drawn at random."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for layer, rank in ranks.items():
        m, n = target.base.matrix(layer)
        layers[layer] = LowRank(torch.zeros(m, rank), torch.randn(rank, n, generator=generator) / math.sqrt(n))
    return layers


class _Factors:
    """Every layer's up and down, with the scale inside and of like size, so that one rate suits both."""

    def __init__(self, layers: Mapping[str, LowRank], device: torch.device) -> None:
        self._names = list(layers)
        self.all = [nn.Parameter(factor.to(device)) for dW in layers.values() for factor in _even(dW)]

    def layers(self, factors: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """With these values in the place of ``all``."""
        return {name: LowRank(factors[2 * i], factors[2 * i + 1]) for i, name in enumerate(self._names)}

    def copied(self, factors: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """The same, which stays as it is when the values go on changing."""
        return self.layers([factor.clone() for factor in factors])


def _even(dW: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Each column of up as long as its row of down."""
    up = dW.scale * dW.up
    ratio = (dW.down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return up * ratio, dW.down / ratio[:, None]


@torch.no_grad()
def _judge(target: Model, layers: Mapping[str, LowRank], content: Content, said: Prompts) -> float:
    parts = chunks(len(content), target.size)
    with adapted(target, layers):
        return sum(_loss(target, content.rows(rows), said).item() for rows in parts) / len(content)


def _loss(target: Model, content: Content, said: Prompts) -> torch.Tensor:
    """The sum over the pictures."""
    predicted = target.predict(content.latents, content.times, said(content.prompts))
    return (predicted - content.noise.to(predicted)).square().mean((1, 2, 3)).sum()
