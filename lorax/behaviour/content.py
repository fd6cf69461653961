"""Generic pictures, which the source draws itself, noised; and what a model predicts on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from lorax.runner import Runner

STEPS = 12  # of drawing
FEWEST = 16  # pictures, however large they are
Tick = Callable[[str], None]  # what is being worked on; raises to stop


@dataclass(frozen=True)
class Content:
    """Noisy latents (N, 4, h, w) at integer times (N,), a prompt each; on the CPU."""

    latents: torch.Tensor
    times: torch.Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, chosen: torch.Tensor) -> Content:
        return Content(self.latents[chosen], self.times[chosen], [self.prompts[i] for i in chosen.tolist()])


def fitting(count: int, size: int) -> int:
    """How many latents of ``size`` a side have the positions of ``count`` latents that are 8 a side, as the lab's are."""
    return max(1, count * 64 // size**2)


def chunks(count: int, size: int) -> Iterator[torch.Tensor]:
    """Rows (n,) of ``count``, as many at a time as a small graphics card runs."""
    yield from torch.split(torch.arange(count), fitting(64, size))


def batches(count: int, size: int) -> int:
    """Of ``count`` latents, by ``chunks``."""
    return math.ceil(count / fitting(64, size))


def pictures(source: Runner, prompts: Sequence[str], tick: Tick) -> torch.Tensor:
    """Latents (P, 4, h, w) of a picture a prompt."""
    parts = []
    for rows in chunks(len(prompts), source.size):
        *_, (_, latents) = source.trajectory([prompts[i] for i in rows.tolist()], rows.tolist(), steps=STEPS)
        parts.append(latents.cpu())
        tick("drawing generic pictures")
    return torch.cat(parts)


def noised(source: Runner, latents: torch.Tensor, prompts: Sequence[str], count: int, seed: int) -> Content:
    """``count`` noisy copies of pictures (P, 4, h, w) in turn, each with its own noise, at times spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.arange(count) % len(latents)
    times = (20 + 960 * (torch.randperm(count, generator=generator) + 0.5) / count).long()
    noise = torch.randn((count, *latents.shape[1:]), generator=generator)
    noisy = source.scheduler.add_noise(latents[chosen], noise, times)
    return Content(noisy, times, [prompts[i] for i in chosen.tolist()])


@torch.no_grad()
def predictions(runner: Runner, content: Content, tick: Tick) -> torch.Tensor:
    """The predicted noise, float32 (N, 4, h, w), on the CPU."""
    parts = []
    for rows in chunks(len(content), runner.size):
        part = content.rows(rows)
        parts.append(runner.predict(part.latents, part.times, runner.encode(part.prompts)).cpu())
        tick(f"running {runner.base.path.name}")
    return torch.cat(parts)
