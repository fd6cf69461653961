"""What an adapter does on its source against what the moved one does on its target: both bases are run on a few generic inputs.

No picture of the adapter's training data is needed. Latents are taken from the source's own way from noise to pictures of generic
prompts, so nothing has to be encoded. Meaningful between bases that share the latent space: one autoencoder, one prediction type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax.runner import Runner

PROMPTS = ("a house", "a cat", "a red apple", "a car", "a tree", "a woman smiling", "a mountain lake", "a cup of coffee")
STEPS = 8


@dataclass(frozen=True)
class Inputs:
    """Noisy latents (S, P, 4, h, w) at integer times (S,) on the way to P prompts' pictures."""

    latents: torch.Tensor
    times: torch.Tensor
    prompts: list[str]


@dataclass(frozen=True)
class Agreement:
    """How the target's change d_t follows the source's change d_s, of equal shape.

    ``r2``: 1 - ||d_t - d_s||^2 / ||d_s||^2; 1 the same change, 0 as far off as no change, below 0 further off than that.
    ``strength``: <d_s, d_t> / ||d_t||^2, by which the target's change would have to be multiplied to follow best.
    """

    r2: float
    strength: float


def generic_inputs(source: Runner, prompts: Sequence[str] = PROMPTS, *, steps: int = STEPS, seed: int = 0) -> Inputs:
    """The latents before each of ``steps`` steps on the way to one picture a prompt."""
    seeds = [seed + i for i in range(len(prompts))]
    *on_the_way, _ = source.trajectory(list(prompts), seeds, steps=steps)
    times, latents = zip(*on_the_way, strict=True)
    return Inputs(torch.stack(latents), torch.stack(times), list(prompts))


def change(runner: Runner, adapter: Path, inputs: Inputs, strength: float = 1.0) -> torch.Tensor:
    """By how much the adapter changes the predicted noise, float32 (S, P, 4, h, w). The adapter is resolved by its key names."""
    without = _predict(runner, inputs)
    with runner.adapted(adapter, strength):
        return _predict(runner, inputs) - without


def agreement(d_s: torch.Tensor, d_t: torch.Tensor) -> Agreement:
    """Of the changes on source and target, on equal inputs. No change on the source is followed by none."""
    whole, own, common = (float((a * b).double().sum()) for a, b in ((d_s, d_s), (d_t, d_t), (d_s, d_t)))
    r2 = 1 - (whole + own - 2 * common) / whole if whole > 0 else float(own == 0)
    return Agreement(r2, common / own if own > 0 else 0.0)


def _predict(runner: Runner, inputs: Inputs) -> torch.Tensor:
    conditioning = runner.encode(inputs.prompts)
    predicted = [runner.predict(latents, t, conditioning) for latents, t in zip(inputs.latents, inputs.times, strict=True)]
    return torch.stack(predicted).cpu()
