"""Pictures that a model draws, and noise in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorax.low_rank import LowRank
from lorax.models.hooks import adapted
from lorax.models.protocol import Model

STEPS = 12  # of drawing
GUIDANCE = 3.0
TRAINED = 1000  # times
FEWEST = 8  # pictures, however large they are: twice as many run side by side, for which SDXL takes 11 GB
Tick = Callable[[str], None]  # what is being worked on; raises to stop


def unheard(name: str) -> None:
    """A tick that nobody hears."""


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


def looked_at(pictures: int, size: int) -> int:
    """How many pictures bridge looks at, if the user asks for so many."""
    return max(FEWEST, fitting(pictures, size))


def chunks(count: int, size: int, most: int = 64) -> Sequence[torch.Tensor]:
    """Rows (n,) of ``count``, as many at a time as a small graphics card runs; ``most`` where latents are 8 a side."""
    return torch.split(torch.arange(count), fitting(most, size))


@torch.no_grad()
def pictures(model: Model, adapter: Mapping[str, LowRank], prompts: Sequence[str], tick: Tick) -> torch.Tensor:
    """Latents (P, 4, h, w) on the CPU of a picture a prompt, which the model draws with the adapter on its layers."""
    parts = []
    with adapted(model, adapter):
        for rows in chunks(len(prompts), model.size):
            parts.append(_drawn(model, [prompts[i] for i in rows.tolist()], rows.tolist()).cpu())
            tick("drawing pictures")
    return torch.cat(parts)


def _drawn(model: Model, prompts: list[str], seeds: Sequence[int]) -> torch.Tensor:
    """By DDIM (arXiv 2010.02502, equation 12 without noise) under classifier-free guidance."""
    shape, leap = (4, model.size, model.size), TRAINED // STEPS
    latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(model.device)
    given, empty = model.encode(prompts), model.encode([""] * len(prompts))
    for time in reversed(range(0, leap * STEPS, leap)):
        times = torch.full((len(prompts),), time)
        without = model.predict(latents, times, empty)
        noise = without + GUIDANCE * (model.predict(latents, times, given) - without)
        now, then = model.alphas[time].item(), model.alphas[max(0, time - leap)].item()
        picture = (latents - (1 - now) ** 0.5 * noise) / now**0.5
        latents = then**0.5 * picture + (1 - then) ** 0.5 * noise
    return latents


def noised(model: Model, latents: torch.Tensor, prompts: Sequence[str], count: int, seed: int) -> Content:
    """``count`` noisy copies of pictures (P, 4, h, w) in turn, each with its own noise, at times spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.arange(count) % len(latents)
    times = (20 + (TRAINED - 40) * (torch.randperm(count, generator=generator) + 0.5) / count).long()
    noise = torch.randn((count, *latents.shape[1:]), generator=generator)
    left = model.alphas[times].view(-1, 1, 1, 1)
    noisy = left.sqrt() * latents[chosen] + (1 - left).sqrt() * noise
    return Content(noisy, noise, times, [prompts[i] for i in chosen.tolist()])
