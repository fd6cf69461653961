"""Retraining without the training data: the target learns the adapter from pictures that the source draws with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from lorax.errors import LoraxError
from lorax.low_rank import LowRank
from lorax.models.hooks import adapted, recomputed
from lorax.models.prompts import Prompts
from lorax.models.protocol import Model
from lorax.models.sampling import Content, Tick, chunks, noised, unheard
from lorax.models.training import Factors, Scales, Training
from lorax.transfer.resume import NOTHING, Kept

# What served unrelated and related bases best, and bridge's scales (docs/behaviour.md).
RATE_UNRELATED, RATE_RELATED, RATE_SCALES = 5e-3, 2e-3, 3e-2
STEPS_UNRELATED, STEPS_RELATED, SCALING = 150, 10, 40
BATCH = 16  # a step
HELD_OUT = 8  # one picture in so many tells when to stop
REPEATS = 2  # under so many noises
EVERY = 10  # steps between looks at it
PATIENCE = 5  # looks without a gain
LARGE = 32  # latents, a side: above it, a card's memory does not hold what a backward pass needs
Watch = Callable[[int, float, Mapping[str, LowRank]], None]  # step, loss on what is held out, the averages, which go on changing


def steps_of(asked: int | None, related: bool) -> int:
    """How many steps are trained at most: as asked, or what served best between relatives or strangers."""
    return asked or (STEPS_RELATED if related else STEPS_UNRELATED)


def unwatched(step: int, loss: float, layers: Mapping[str, LowRank]) -> None:
    """Nobody watches."""


def refine(
    target: Model,
    trained: Factors | Scales,
    latents: torch.Tensor,
    prompts: Sequence[str],
    *,
    steps: int,
    rate: float,
    tick: Tick,
    still: Tick = unheard,
    watch: Watch = unwatched,
    kept: Kept = NOTHING,
) -> dict[str, LowRank]:
    """Minimise the denoising loss of pictures, scaled latents (P, 4, h, w), with prompts over what is trained.

    AdamW from what that is now, or from where ``kept`` has it, for ``steps`` steps or until PATIENCE looks found no gain; returns
    the layers with the averages of the best. ``still`` is told of what is no step of the training. Raises LoraxError where the
    target's predictions or gradients are not finite.
    """
    training = Training(trained.all, rate)
    is_held = torch.arange(len(prompts)) % HELD_OUT == 0
    held, shown = is_held.nonzero().flatten(), (~is_held).nonzero().flatten()
    judged = noised(target, latents[held], [prompts[i] for i in held], REPEATS * len(held), seed=0)
    said = Prompts(target, prompts, trained.layers(trained.all), still)
    blocks = target.blocks() if target.size > LARGE else ()

    def look() -> None:
        layers = trained.layers(training.average)
        loss = _judge(target, layers, judged, said, still)
        if training.step == 0 and not math.isfinite(loss):
            raise LoraxError(
                f"{target.base.path}: what the model predicts is NaN or infinite. Its weights overflow in the precision in which "
                "it runs, or are damaged; use another copy of the checkpoint."
            )
        training.look(loss)
        watch(training.step, loss, layers)

    if kept.restored(training):
        for _ in range(training.step):
            tick("going on")
    else:
        look()
    while training.step < steps and training.since < PATIENCE:
        try:
            tick("training")
        except BaseException:
            kept.keep(training)
            raise
        step = training.step + 1
        rows = shown[torch.randperm(len(shown), generator=torch.Generator().manual_seed(step))[:BATCH]]
        batch = noised(target, latents[rows], [prompts[i] for i in rows], len(rows), seed=step)

        def gradient(scale: float, batch: Content = batch) -> None:
            for part in chunks(len(batch), target.size, BATCH):  # as much at a time as fits
                with adapted(target, trained.layers(trained.all)), recomputed(blocks):
                    torch.autograd.backward(scale * _loss(target, batch.rows(part), said) / len(batch))

        training.advance(gradient)
        if training.step % EVERY == 0 or training.step == steps:
            look()
            kept.keep(training)
    return {layer: dW.to("cpu") for layer, dW in trained.layers(training.chosen).items()}


def blank(target: Model, ranks: Mapping[str, int]) -> dict[str, LowRank]:
    """A delta of zero for every layer, from which training can start: up is zero, down drawn at random."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for layer, rank in ranks.items():
        m, n = target.base.matrix(layer)
        layers[layer] = LowRank(torch.zeros(m, rank), torch.randn(rank, n, generator=generator) / math.sqrt(n))
    return layers


def started(target: Model, first: Mapping[str, LowRank], ranks: Mapping[str, int]) -> dict[str, LowRank]:
    """Deltas of these ranks, by layer, that do what ``first`` does, or the most of it; of zero where it has none."""
    layers = {layer: dW.compressed(ranks[layer])[0] for layer, dW in first.items()}
    missing = {layer: rank - (layers[layer].rank if layer in layers else 0) for layer, rank in ranks.items()}
    for layer, more in blank(target, {layer: rank for layer, rank in missing.items() if rank > 0}).items():
        dW = layers.get(layer)
        up, down = (dW.scale * dW.up, dW.down) if dW else (more.up[:, :0], more.down[:0])
        layers[layer] = LowRank(torch.cat([up, more.up], 1), torch.cat([down, more.down]))
    return layers


@torch.no_grad()
def _judge(target: Model, layers: Mapping[str, LowRank], content: Content, said: Prompts, still: Tick) -> float:
    total = 0.0
    with adapted(target, layers):
        for rows in chunks(len(content), target.size):
            still("looking at what is left out")
            total += _loss(target, content.rows(rows), said).item()
    return total / len(content)


def _loss(target: Model, content: Content, said: Prompts) -> torch.Tensor:
    """The sum over the pictures."""
    predicted = target.predict(content.latents, content.times, said(content.prompts))
    return (predicted - content.noise.to(predicted)).square().mean((1, 2, 3)).sum()
