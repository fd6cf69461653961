"""What a transfer is worth: gain recovery on captions of the style that no LoRA has seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from lab import data
from lab.vae import encode
from lorax.runner import Conditioning, Runner

TIMES = (100, 350, 600, 850)  # a fixed grid, the same for every model and adapter


@dataclass(frozen=True)
class Recovery:
    """(L(target) - L(with the transferred)) / (L(target) - L(with the native)), with a 95 % bootstrap interval over icons."""

    mean: float
    low: float
    high: float


class HeldOut:
    """The held-out icons of a style, as one model sees them: latents, encoded captions and noise that only seeds decide."""

    def __init__(self, runner: Runner, icons: str, seeds: Iterable[int]) -> None:
        collection = data.load_common(icons).held_out()
        self.runner, self.seeds = runner, list(seeds)
        self.latents, self.captions = encode(runner.vae, collection.pixels()), collection.captions

    def losses(self, adapter: Path | None, strength: float = 1.0) -> torch.Tensor:
        """Denoising loss (icons, seeds), the mean over the grid of times."""
        with self.runner.adapted(adapter, strength):
            parts = [self.runner.encode(self.captions[i : i + 64]) for i in range(0, len(self.captions), 64)]
            return torch.stack([self._of_seed(seed, Conditioning.joined(parts)) for seed in self.seeds], dim=1)

    def _of_seed(self, seed: int, conditioning: Conditioning) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(len(self.latents))
        for time in TIMES:
            noise = torch.randn(self.latents.shape, generator=generator)
            total += self.runner.losses(self.latents, conditioning, torch.full((len(self.latents),), time), noise)
        return total / len(TIMES)


def recovery(alone: torch.Tensor, native: torch.Tensor, moved: torch.Tensor, minus: torch.Tensor | None = None) -> Recovery:
    """Of losses (icons, seeds). With ``minus``: the paired difference of two recoveries, ``moved``'s less ``minus``'s."""
    reference = alone if minus is None else minus
    gain, best = (reference - moved).mean(1), (alone - native).mean(1)
    rows = torch.randint(len(gain), (2000, len(gain)), generator=torch.Generator().manual_seed(0))
    draws = gain[rows].mean(1) / best[rows].mean(1)
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Recovery((gain.mean() / best.mean()).item(), low, high)
