"""Denoising losses of a base, with and without an adapter, on icons that decide what the adapter is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from lab import data
from lab.lora import judged_icons
from lab.zoo import OWN_ICONS, Adapter, others
from lorax.formats import open_adapter
from lorax.runner import Runner
from lorax.runner.runner import Conditioning
from lorax.runner.vae import encode

SEEDS = (0, 1, 2, 3, 4)
TIMES = (100, 300, 500, 700, 900)
CONCEPT_REPEATS = 10  # a concept has few drawings: each is measured again under other noise, and still counts once


class Losses:
    """Icons as one base sees them: latents, captions, and noise that only seed and row decide.

    Each icon is measured once a seed, at another of ``TIMES`` each time, so that five seeds cover all five; with ``repeats`` as
    often under other noise, and the mean is taken.
    """

    def __init__(self, runner: Runner, icons: data.Icons, repeats: int = 1) -> None:
        self.runner, self.repeats = runner, repeats
        self.latents, self.captions = encode(runner.vae, icons.pixels()), icons.captions

    def of(self, adapter: Path | None, strength: float = 1.0) -> torch.Tensor:
        """Denoising loss, float32 (icons, seeds)."""
        with self.runner.adapted(adapter, strength):
            conditioning = self.runner.encode(self.captions)
            return torch.stack([self._of_seed(seed, conditioning) for seed in SEEDS], dim=1)

    def _of_seed(self, seed: int, conditioning: Conditioning) -> torch.Tensor:
        total = torch.zeros(len(self.latents))
        for repeat in range(self.repeats):
            generator = torch.Generator().manual_seed(seed + 1000 * repeat)
            noise = torch.randn(self.latents.shape, generator=generator)
            times = torch.tensor(TIMES)[(torch.arange(len(self.latents)) + seed + repeat) % len(TIMES)]
            total += self.runner.losses(self.latents, conditioning, times, noise)
        return total / self.repeats


def of_adapter(runner: Runner, adapter: Adapter) -> Losses:
    """On what the adapter is for."""
    return Losses(runner, judged_icons(adapter), CONCEPT_REPEATS if adapter.is_concept else 1)


def other_natives(runner: Runner, adapter: Adapter, base: str) -> Iterator[tuple[str, Path, float]]:
    """The other styles' native adapters: style, file, and the strength at which each has the norm of this one's native."""
    if not (own := adapter.path(base)).is_file():  # what was measured with it is stored
        return
    for other in others(adapter):
        if (path := other.path(base)).is_file():
            yield other.icons, path, _norm(own, runner) / _norm(path, runner)


def _norm(path: Path, runner: Runner) -> float:
    """||dW||_F over all layers of an adapter on the runner's base."""
    opened = open_adapter(path)
    layers = (name for name, layer in opened.layers_of(runner.base).items() if layer)
    return math.sqrt(sum(opened.delta(name, runner.base).norm() ** 2 for name in layers))


def of_ordinary(runner: Runner, base: str) -> Losses:
    """On captions and icons that the base draws by itself: what an adapter changes there is harm."""
    return Losses(runner, data.load_common(OWN_ICONS[base]).held_out())
