"""Samples pictures from a model, and adds noise to pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorax.low_rank import LowRank
from lorax.models.hooks import adapted
from lorax.models.protocol import Model, check_finite
from lorax.progress import DRAWING, Meter

STEPS = 12  # DDIM steps for a picture that a target learns from
GUIDANCE = 3.0
TIMESTEPS = 1000


@dataclass(frozen=True)
class NoisyBatch:
    """Noisy latents (N, 4, h, w), the noise to predict in them, integer timesteps (N,) and prompts. All are on the CPU."""

    latents: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, chosen: torch.Tensor) -> "NoisyBatch":
        """Return the rows with these numbers."""
        prompts = [self.prompts[i] for i in chosen.tolist()]
        return NoisyBatch(self.latents[chosen], self.noise[chosen], self.times[chosen], prompts)


def batch_size(small: int, size: int) -> int:
    """Return how many latents with this side have as many positions as ``small`` latents with a side of 8; at least 1."""
    return max(1, small * 64 // size**2)


def batches(count: int, size: int, small: int = 64) -> Sequence[torch.Tensor]:
    """Split the row numbers of ``count`` latents into batches that a small graphics card runs; see ``batch_size``."""
    return torch.split(torch.arange(count), batch_size(small, size))


@torch.no_grad()
def draw(model: Model, adapter: Mapping[str, LowRank], prompts: Sequence[str], meter: Meter) -> torch.Tensor:
    """Draw a picture for each prompt with the adapter on the model's layers; return latents (P, 4, h, w) on the CPU.

    Raises LoraxError if one of them is not finite.
    """
    parts, count, done = [], len(prompts), 0
    with adapted(model, adapter):
        for rows in batches(count, model.size):
            passed: list[torch.Tensor] = []  # all that a batch passes through is small beside the model
            for _, latents in trajectory(model, [prompts[i] for i in rows.tolist()], rows.tolist(), STEPS, GUIDANCE):
                meter.at(done, count, DRAWING, share=(done + len(rows) * len(passed) / STEPS) / count)
                passed.append(latents)
            parts.append(passed[-1].cpu())
            check_finite(model, parts[-1])  # else these would be black pictures, from which a target learns black
            done += len(rows)
    return torch.cat(parts)


@torch.no_grad()
def trajectory(
    model: Model, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, negative: str = ""
) -> Iterator[tuple[int, torch.Tensor]]:
    """Sample a picture for each prompt and seed; yield each timestep with the latents (N, 4, h, w) before it, and the result.

    The result comes with timestep 0. DDIM (arXiv 2010.02502, equation 12 without noise) with classifier-free guidance (arXiv
    2207.12598). A seed gives the same noise on every device.
    """
    shape, stride = (4, model.size, model.size), TIMESTEPS // steps
    latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(model.device)
    given, empty = model.encode(list(prompts)), model.encode([negative] * len(prompts))
    for time in reversed(range(0, stride * steps, stride)):
        yield time, latents
        times = torch.full((len(prompts),), time)
        without = model.predict(latents, times, empty)
        noise = without + guidance * (model.predict(latents, times, given) - without)
        now, then = model.alphas[time].item(), model.alphas[max(0, time - stride)].item()
        picture = (latents - (1 - now) ** 0.5 * noise) / now**0.5
        latents = then**0.5 * picture + (1 - then) ** 0.5 * noise
    yield 0, latents


def noised(model: Model, latents: torch.Tensor, prompts: Sequence[str], count: int, seed: int) -> NoisyBatch:
    """Make ``count`` noisy copies of latents (P, 4, h, w) in turn, each with its own noise, at evenly spread timesteps."""
    return next(noised_in_parts(model, latents, prompts, count, seed, at_once=count))


def noised_in_parts(
    model: Model, latents: torch.Tensor, prompts: Sequence[str], count: int, seed: int, at_once: int
) -> Iterator[NoisyBatch]:
    """Yield the same copies, ``at_once`` at a time, since all of them may be large."""
    generator = torch.Generator().manual_seed(seed)
    times = (20 + (TIMESTEPS - 40) * (torch.randperm(count, generator=generator) + 0.5) / count).long()
    for rows in torch.split(torch.arange(count), at_once):
        chosen = rows % len(latents)
        noise = torch.randn((len(rows), *latents.shape[1:]), generator=generator)
        share = model.alphas[times[rows]].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latents[chosen] + (1 - share).sqrt() * noise
        yield NoisyBatch(noisy, noise, times[rows], [prompts[i] for i in chosen.tolist()])
