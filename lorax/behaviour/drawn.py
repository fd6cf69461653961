"""What the source draws with the adapter, from which the target learns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorax.adapter import LowRank
from lorax.behaviour import content
from lorax.behaviour.captions import captions, trigger, with_triggers
from lorax.behaviour.content import Tick
from lorax.behaviour.model import Model
from lorax.cache import Entry
from lorax.transfer import Plan


@dataclass(frozen=True)
class Drawn:
    """What the source drew: its latents (P, 4, h, w) on the CPU, and the pictures, uint8 (P, 3, H, W)."""

    prompts: list[str]
    latents: torch.Tensor
    pictures: torch.Tensor
    space: tuple[float, int]

    @classmethod
    def of(cls, entry: Entry, prompts: list[str]) -> Drawn:
        """From its ``state``."""
        latents, pictures = entry.tensors["latents"], entry.tensors["pictures"]
        return cls(prompts, latents, pictures, (float(entry.notes["scale"]), int(entry.notes["size"])))

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        scale, size = self.space
        return {"latents": self.latents, "pictures": self.pictures}, {"scale": repr(scale), "size": str(size)}

    def latents_in(self, target: Model) -> torch.Tensor:
        """As the target sees them, at the size that is at home in it."""
        if self.space == _space(target):
            return self.latents
        side = 8 * target.size
        parts = [
            torch.nn.functional.interpolate(self.pictures[rows] / 255, (side, side), mode="bicubic", antialias=True)
            for rows in content.chunks(len(self.pictures), target.size)
        ]
        return torch.cat([target.encode_pictures(part.clamp(0, 1)).cpu() for part in parts])


def draw(plan: Plan, source: Model, adapter: Mapping[str, LowRank], count: int, tick: Tick) -> Drawn:
    prompts = prompts_of(plan, count)
    latents = content.pictures(source, adapter, prompts, tick)
    pictures = [(255 * source.decode(latents[rows])).round().byte().cpu() for rows in content.chunks(count, source.size)]
    return Drawn(prompts, latents, torch.cat(pictures), _space(source))


def prompts_of(plan: Plan, count: int) -> list[str]:
    """What the source draws: captions, with the adapter's trigger words in every second one."""
    return with_triggers(captions(count, plan.running.captions), plan.running.trigger or trigger(plan.adapter))


def _space(model: Model) -> tuple[float, int]:
    """Models of which this is the same draw in the same latent space."""
    return model.latent_scale, model.size
