"""Examples from which a target learns: noisy pictures, each with the noise that the target should predict in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lorax.low_rank import LowRank
from lorax.models.hooks import adapted
from lorax.models.prompts import Prompts
from lorax.models.protocol import Model, check_finite
from lorax.models.sampling import NoisyBatch, batch_size, noised, noised_in_parts
from lorax.progress import WATCHING, Meter

HELD_OUT = 8  # one picture in so many is held out for validation
COPIES, ANSWERS = 8, 512  # noisy copies of a picture in which the source predicts the noise: so many at most, and of all pictures
VALIDATED = 4  # copies of a picture that is held out, at most


class Examples(Protocol):
    """Examples by step, and others that are held out."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of all pictures."""

    def held_out(self) -> NoisyBatch:
        """Return the examples for validation."""

    def at(self, step: int, count: int) -> NoisyBatch:
        """Return the examples of a step, ``count`` or as many as there are."""


@dataclass(frozen=True)
class NewNoise:
    """Pictures with new noise at every step, which the target should predict: scaled latents (P, 4, h, w) on the CPU.

    ``model`` tells how much noise there is at a timestep.
    """

    model: Model
    latents: torch.Tensor
    prompts: Sequence[str]

    def held_out(self) -> NoisyBatch:
        """Return each picture that is held out, once."""
        rows = _is_held_out(len(self.prompts)).nonzero().flatten()
        return self._noised(rows, seed=0)

    def at(self, step: int, count: int) -> NoisyBatch:
        """Return other pictures at each step."""
        rows = (~_is_held_out(len(self.prompts))).nonzero().flatten()
        return self._noised(_some(rows, step, count), seed=step)

    def _noised(self, rows: torch.Tensor, seed: int) -> NoisyBatch:
        return noised(self.model, self.latents[rows], [self.prompts[i] for i in rows], len(rows), seed)


@dataclass(frozen=True)
class Answers:
    """Noisy copies of pictures, and the noise that the source with the adapter predicts in them; float16 on the CPU.

    This is distillation (arXiv 1503.02531). What the source predicts has none of the chance that is in the noise itself, so a
    target learns more in fewer steps. The latents of both bases must mean the same. ``pictures``: how many there are; the first
    copies of all come first, then the second ones.
    """

    batch: NoisyBatch
    pictures: int

    @classmethod
    @torch.no_grad()
    def of(
        cls, source: Model, adapter: Mapping[str, LowRank], latents: torch.Tensor, prompts: Sequence[str], meter: Meter
    ) -> "Answers":
        """Have the source with the adapter predict the noise in copies of scaled latents (P, 4, h, w), with a prompt each.

        Raises LoraxError if what it predicts is not finite.
        """
        count, found = answers_on(len(latents)), list[NoisyBatch]()
        with adapted(source, adapter):
            encoded = Prompts(source, prompts, adapter, meter)
            for part in noised_in_parts(source, latents, prompts, count, seed=0, at_once=batch_size(64, source.size)):
                meter.at(sum(map(len, found)), count, WATCHING)
                answers = source.predict(part.latents, part.times, encoded(part.prompts)).half().cpu()
                check_finite(source, answers)
                found.append(NoisyBatch(part.latents.half(), answers, part.times, part.prompts))
        noisy, noise, times = (torch.cat([getattr(part, name) for part in found]) for name in ("latents", "noise", "times"))
        return cls(NoisyBatch(noisy, noise, times, [prompt for part in found for prompt in part.prompts]), len(latents))

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the pictures."""
        return self.batch.prompts[: self.pictures]

    def held_out(self) -> NoisyBatch:
        """Return the first copies of each picture that is held out."""
        rows = self._is_held_out()
        return self.batch.rows(rows[: validated_of(self.pictures) * self.pictures].nonzero().flatten())

    def at(self, step: int, count: int) -> NoisyBatch:
        """Return copies of any of the other pictures."""
        return self.batch.rows(_some((~self._is_held_out()).nonzero().flatten(), step, count))

    def _is_held_out(self) -> torch.Tensor:
        return _is_held_out(self.pictures).repeat(len(self.batch) // self.pictures)


def copies_of(pictures: int) -> int:
    """Return how many noisy copies of each of so many pictures are answered."""
    return min(COPIES, max(1, ANSWERS // pictures))


def answers_on(pictures: int) -> int:
    """Return how many answers there are on so many pictures."""
    return copies_of(pictures) * pictures


def validated_of(pictures: int) -> int:
    """Return how many copies of a picture are looked at if it is held out."""
    return min(VALIDATED, copies_of(pictures))


def _is_held_out(pictures: int) -> torch.Tensor:
    return torch.arange(pictures) % HELD_OUT == 0


def _some(rows: torch.Tensor, step: int, count: int) -> torch.Tensor:
    """Return some of the rows, others at each step."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(step))[:count]]
