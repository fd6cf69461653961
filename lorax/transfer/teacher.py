"""What the source draws with the adapter, from which the target learns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorax.files.cache import Entry
from lorax.low_rank import LowRank
from lorax.models import sampling
from lorax.models.captions import captions, trigger, with_triggers
from lorax.models.protocol import Model
from lorax.models.sampling import Tick, unheard
from lorax.transfer.planning import Plan


@dataclass(frozen=True)
class Drawn:
    """What the source drew: pictures, uint8 (P, 3, H, W), on the CPU."""

    prompts: list[str]
    pictures: torch.Tensor

    @classmethod
    def of(cls, entry: Entry, prompts: list[str]) -> Drawn:
        """From its ``state``."""
        return cls(prompts, entry.tensors["pictures"])

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        return {"pictures": self.pictures}, {}

    def latents_in(self, model: Model, still: Tick = unheard) -> torch.Tensor:
        """As a model sees them, at the size that is at home in it: scaled latents (P, 4, h, w) on the CPU.

        The source, too, sees what its autoencoder makes of the pictures, as it does of pictures that people train on: latents as
        they were drawn are like no picture's, and a target learns less from them.
        """
        side = 8 * model.size
        parts = []
        for rows in sampling.chunks(len(self.pictures), model.size):
            still("encoding pictures")
            part = self.pictures[rows] / 255
            if part.shape[-1] != side:
                part = torch.nn.functional.interpolate(part, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            parts.append(model.encode_pictures(part).cpu())
        return torch.cat(parts)


def draw(plan: Plan, source: Model, adapter: Mapping[str, LowRank], count: int, tick: Tick, still: Tick = unheard) -> Drawn:
    """As many pictures, a prompt each. ``still`` is told of what is no step of its own."""
    prompts = prompts_of(plan, count)
    latents = sampling.pictures(source, adapter, prompts, tick)
    pictures = []
    for rows in sampling.chunks(count, source.size):
        still("decoding pictures")
        pictures.append((255 * source.decode(latents[rows])).round().byte().cpu())
    return Drawn(prompts, torch.cat(pictures))


def prompts_of(plan: Plan, count: int) -> list[str]:
    """What the source draws: captions, with the adapter's trigger words in every second one."""
    return with_triggers(captions(count, plan.running.captions), trigger_of(plan))


def trigger_of(plan: Plan) -> str | None:
    """The words that the user gives, else those that the adapter names."""
    return plan.running.trigger or trigger(plan.adapter)
