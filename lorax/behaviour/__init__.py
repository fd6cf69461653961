"""Methods that run both models: what weights cannot tell of unrelated bases is told by what the models draw and compute.

One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorax.adapter import LowRank
from lorax.behaviour import bridge, content, refine
from lorax.behaviour.captions import captions, trigger, with_triggers
from lorax.behaviour.model import Model, Models
from lorax.behaviour.outcome import Paired, by_weights, concluded, foretold, has_already, paired
from lorax.methods import BRIDGE
from lorax.transfer import Moved, Plan, Progress

# What served unrelated and related bases best (docs/behaviour.md).
RATE_UNRELATED, RATE_RELATED = 5e-3, 2e-3


def run(plan: Plan, models: Models, progress: Progress) -> Moved:
    """``bridge``, or ``refine``, which between relatives starts from what ``auto`` moves.

    Raises LoraxError if a model cannot be run.
    """
    [auto] = by_weights([plan])
    if has_already(plan, auto):
        return auto
    pairs = paired(plan)
    layers = (_bridge if plan.options.method == BRIDGE else _refine)(plan, auto, pairs, models, _Meter(progress))
    return concluded(plan, auto, pairs, layers)


def _bridge(plan: Plan, auto: Moved, pairs: Mapping[str, Paired], models: Models, meter: _Meter) -> dict[str, LowRank]:
    adapter = plan.adapter.deltas_of(plan.source)
    feeds = {layer.target: (layer.source, layer.rank) for layer in pairs.values()}
    recorded = {source: adapter[source] for source, _ in feeds.values()}
    with models.opened(plan.source) as source:
        count = content.looked_at(plan.running.pictures, source.size)
        meter.expect(len(content.chunks(count, source.size)) + len(adapter) + len(feeds))
        drawn = _drawn(plan, source, adapter, count, meter)
        seen = content.noised(source, drawn.latents, drawn.prompts, count, seed=0)
        where = bridge.places(source, list(recorded), seen)
        outputs = bridge.record(source, adapter, seen, where, meter)
    with models.opened(plan.target) as target:
        seen = content.noised(target, drawn.latents_in(target), drawn.prompts, count, seed=0)
        return bridge.fit(target, outputs, feeds, seen, where, meter)


def _refine(plan: Plan, auto: Moved, pairs: Mapping[str, Paired], models: Models, meter: _Meter) -> dict[str, LowRank]:
    adapter = plan.adapter.deltas_of(plan.source)
    with models.opened(plan.source) as source:
        meter.expect(len(content.chunks(plan.running.pictures, source.size)) + plan.running.steps)
        drawn = _drawn(plan, source, adapter, plan.running.pictures, meter)
    with models.opened(plan.target) as target:
        latents = drawn.latents_in(target)
        ranks = {layer.target: layer.rank for layer in pairs.values()}
        start, rate = (auto.layers, RATE_RELATED) if auto.layers else (refine.blank(target, ranks), RATE_UNRELATED)
        return refine.refine(target, start, latents, drawn.prompts, steps=plan.running.steps, rate=rate, tick=meter)


@dataclass(frozen=True)
class _Drawn:
    """What the source drew: its latents (P, 4, h, w) on the CPU, and the pictures (P, 3, H, W) in [0, 1], in half precision."""

    prompts: list[str]
    latents: torch.Tensor
    pictures: torch.Tensor
    space: tuple[float, int]

    def latents_in(self, target: Model) -> torch.Tensor:
        """As the target sees them, at the size that is at home in it."""
        if self.space == _space(target):
            return self.latents
        side = 8 * target.size
        parts = [
            torch.nn.functional.interpolate(self.pictures[rows].float(), (side, side), mode="bicubic", antialias=True)
            for rows in content.chunks(len(self.pictures), target.size)
        ]
        return torch.cat([target.encode_pictures(part.clamp(0, 1)).cpu() for part in parts])


def _drawn(plan: Plan, source: Model, adapter: Mapping[str, LowRank], count: int, meter: _Meter) -> _Drawn:
    prompts = with_triggers(captions(count, plan.running.captions), plan.running.trigger or trigger(plan.adapter))
    latents = content.pictures(source, adapter, prompts, meter)
    pictures = torch.cat([source.decode(latents[rows]).half().cpu() for rows in content.chunks(len(latents), source.size)])
    return _Drawn(prompts, latents, pictures, _space(source))


def _space(model: Model) -> tuple[float, int]:
    """Models of which this is the same draw in the same latent space."""
    return model.latent_scale, model.size


class _Meter:
    """Counts what is done of what is expected by now."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, more: int) -> None:
        self._total += more

    def __call__(self, name: str) -> None:
        self._progress(self._done, self._total, name)
        self._done += 1


__all__ = ["foretold", "run"]
