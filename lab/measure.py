"""Denoising losses of a base, with and without an adapter, on icons that decide what the adapter is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lab import data
from lab.lora import held_out_icons
from lab.vae import encode
from lab.zoo import OWN_ICONS, Adapter
from lorax.runner import Conditioning, Runner

SEEDS = (0, 1, 2, 3, 4)
TIMES = (100, 300, 500, 700, 900)
CONCEPT_ROWS = 48  # the few drawings of a concept are measured again and again, under other noise


class Losses:
    """Icons as one base sees them: latents, captions, and noise that only seed and row decide.

    Each icon is measured once a seed, at another of ``TIMES`` each time, so that five seeds cover all five.
    """

    def __init__(self, runner: Runner, icons: data.Icons, seeds: Sequence[int] = SEEDS) -> None:
        self.runner, self.seeds = runner, seeds
        self.latents, self.captions = encode(runner.vae, icons.pixels()), icons.captions

    def of(self, adapter: Path | None, strength: float = 1.0) -> torch.Tensor:
        """Denoising loss, float32 (icons, seeds)."""
        with self.runner.adapted(adapter, strength):
            conditioning = self.runner.encode(self.captions)
            return torch.stack([self._of_seed(seed, conditioning) for seed in self.seeds], dim=1)

    def _of_seed(self, seed: int, conditioning: Conditioning) -> torch.Tensor:
        noise = torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(seed))
        times = torch.tensor(TIMES)[(torch.arange(len(self.latents)) + seed) % len(TIMES)]
        return self.runner.losses(self.latents, conditioning, times, noise)


def of_adapter(runner: Runner, adapter: Adapter) -> Losses:
    """On what the adapter was made for and has not seen."""
    icons = held_out_icons(adapter)
    return Losses(runner, icons.repeated(CONCEPT_ROWS) if adapter.is_concept else icons)


def of_ordinary(runner: Runner, base: str) -> Losses:
    """On captions and icons that the base draws by itself: what an adapter changes there is harm."""
    return Losses(runner, data.load_common(OWN_ICONS[base]).held_out())
