"""Pictures that a model draws, and noise in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lorax.runner import Runner

STEPS = 12  # of drawing
FEWEST = 16  # pictures, however large they are
Tick = Callable[[str], None]  # what is being worked on; raises to stop


@dataclass(frozen=True)
class Content:
    """Noisy latents (N, 4, h, w), the noise in them, integer times (N,) and prompts; on the CPU."""

    latents: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, chosen: torch.Tensor) -> Content:
        return Content(self.latents[chosen], self.noise[chosen], self.times[chosen], [self.prompts[i] for i in chosen.tolist()])


def fitting(count: int, size: int) -> int:
    """How many latents of ``size`` a side have the positions of ``count`` latents that are 8 a side, as the lab's are."""
    return max(1, count * 64 // size**2)


def chunks(count: int, size: int, most: int = 64) -> Sequence[torch.Tensor]:
    """Rows (n,) of ``count``, as many at a time as a small graphics card runs; ``most`` where latents are 8 a side."""
    return torch.split(torch.arange(count), fitting(most, size))


def pictures(source: Runner, prompts: Sequence[str], tick: Tick) -> torch.Tensor:
    """Latents (P, 4, h, w) of a picture a prompt."""
    parts = []
    for rows in chunks(len(prompts), source.size):
        *_, (_, latents) = source.trajectory([prompts[i] for i in rows.tolist()], rows.tolist(), steps=STEPS)
        parts.append(latents.cpu())
        tick("drawing pictures")
    return torch.cat(parts)


def noised(runner: Runner, latents: torch.Tensor, prompts: Sequence[str], count: int, seed: int) -> Content:
    """``count`` noisy copies of pictures (P, 4, h, w) in turn, each with its own noise, at times spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.arange(count) % len(latents)
    times = (20 + 960 * (torch.randperm(count, generator=generator) + 0.5) / count).long()
    noise = torch.randn((count, *latents.shape[1:]), generator=generator)
    noisy = runner.scheduler.add_noise(latents[chosen], noise, times)
    return Content(noisy, noise, times, [prompts[i] for i in chosen.tolist()])
