"""What a moved adapter will be worth, found out by running both bases without any picture of the adapter's training data.

Two questions: does the moved adapter change what the target does as the adapter changes what the source does; and does it help
the target to draw what the source draws with the adapter? Both are meaningful between bases that share the latent space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax.models import trajectory
from lorax.models.sampling import GUIDANCE
from lorax.runner import Runner

STEPS = 10
TIMES = (100, 300, 500, 700, 900)  # at which pictures are noised


@dataclass(frozen=True)
class Inputs:
    """Noisy latents (S, P, 4, h, w) at integer times (S,), for P prompts."""

    latents: torch.Tensor
    times: torch.Tensor
    prompts: list[str]


@dataclass(frozen=True)
class Agreement:
    """How the target's change d_t follows the source's change d_s, of equal shape.

    ``r2``: 1 - ||d_t - d_s||^2 / ||d_s||^2; 1 the same change, 0 as far off as no change, below 0 further off than that.
    ``cosine``: of the angle between both, whatever their sizes, which differ between bases that know more styles and fewer.
    """

    r2: float
    cosine: float


def on_the_way(source: Runner, prompts: Sequence[str], *, steps: int = STEPS) -> Inputs:
    """The latents before each of ``steps`` steps on the way to one picture a prompt, without any adapter."""
    *before, _ = trajectory(source, prompts, range(len(prompts)), steps, GUIDANCE)
    times, latents = zip(*before, strict=True)
    return Inputs(torch.stack(latents), torch.tensor(times), list(prompts))


def drawn(source: Runner, adapter: Path, prompts: Sequence[str], *, steps: int = STEPS) -> torch.Tensor:
    """Latents (P, 4, h, w) of a picture a prompt, drawn by the source with the adapter: what the adapter is for."""
    with source.adapted(adapter):
        *_, (_, latents) = trajectory(source, prompts, range(len(prompts)), steps, GUIDANCE)
    return latents


def change(runner: Runner, adapter: Path, inputs: Inputs) -> torch.Tensor:
    """By how much the adapter changes the predicted noise, float32 (S, P, 4, h, w), on the CPU."""
    without = _predict(runner, inputs)
    with runner.adapted(adapter):
        return _predict(runner, inputs) - without


def agreement(d_s: torch.Tensor, d_t: torch.Tensor) -> Agreement:
    """Of the changes on source and target, on equal inputs. No change on the source is followed by none."""
    whole, own, common = (float((a * b).double().sum()) for a, b in ((d_s, d_s), (d_t, d_t), (d_s, d_t)))
    r2 = 1 - (whole + own - 2 * common) / whole if whole > 0 else float(own == 0)
    cosine = common / math.sqrt(whole * own) if whole > 0 and own > 0 else 0.0
    return Agreement(r2, cosine)


def loss(runner: Runner, adapter: Path | None, latents: torch.Tensor, prompts: Sequence[str], strength: float = 1.0) -> float:
    """Mean denoising loss on pictures, latents (P, 4, h, w), of the prompts, at a fixed grid of times under fixed noise."""
    with runner.adapted(adapter, strength):
        conditioning = runner.encode(list(prompts))
        total = 0.0
        for time in TIMES:
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(time)).to(latents)
            times = torch.full((len(latents),), time, device=latents.device)
            total += runner.losses(latents, conditioning, times, noise).mean().item()
    return total / len(TIMES)


def _predict(runner: Runner, inputs: Inputs) -> torch.Tensor:
    conditioning = runner.encode(inputs.prompts)
    predicted = [runner.predict(latents, t, conditioning) for latents, t in zip(inputs.latents, inputs.times, strict=True)]
    return torch.stack(predicted).cpu()
