"""Methods that run both models: what weights cannot tell of unrelated bases is told by what the models draw and compute.

One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax.adapter import LowRank
from lorax.behaviour import bridge, content, refine
from lorax.behaviour.captions import captions, with_triggers
from lorax.behaviour.model import Model, Models
from lorax.errors import LoraxError
from lorax.methods import AUTO, BRIDGE
from lorax.moving import unmatched
from lorax.report import LayerRecord, Report
from lorax.transfer import Moved, Plan, Progress, run_all

# What served unrelated and related bases best (docs/behaviour.md).
RATE_UNRELATED, RATE_RELATED = 5e-3, 2e-3
NO_VECTORS = "this method makes low-rank layers only"
LEFT_OUT = "it computes at other positions than the source's layer"


@dataclass(frozen=True)
class _Paired:
    """A layer of the adapter that has a pair, with what is known of its delta."""

    source: str
    target: str
    reason: str  # of the pair
    rank: int  # the adapter's, but no more than is asked for
    norm: float


def run(plan: Plan, models: Models, progress: Progress) -> Moved:
    """``bridge``, or ``refine``, which between relatives starts from what ``auto`` moves.

    Raises LoraxError if a model cannot be run, or if a bridge is asked for between models that draw in different latent spaces.
    """
    return (_bridge if plan.options.method == BRIDGE else _refine)(plan, models, _Meter(progress))


def _bridge(plan: Plan, models: Models, meter: _Meter) -> Moved:
    paired, adapter = _paired(plan), plan.adapter.deltas_of(plan.source)
    feeds = {layer.target: (layer.source, layer.rank) for layer in paired.values()}
    with models.opened(plan.source) as source:
        count = max(content.FEWEST, content.fitting(plan.running.pictures, source.size))
        meter.expect(len(content.chunks(count, source.size)) + 2 + len(feeds))
        prompts = _prompts(plan, count)
        latents = content.pictures(source, adapter, prompts, meter)
        seen = content.noised(source, latents, prompts, count, seed=0)
        layers = list(dict.fromkeys(layer.source for layer in paired.values()))
        outputs = bridge.record(source, adapter, layers, seen, meter)
        space = source.latent_scale, source.size
    with models.opened(plan.target) as target:
        if (target.latent_scale, target.size) != space:
            raise LoraxError(
                f"{plan.source.path} and {plan.target.path} draw in different latent spaces, so that what their layers do cannot "
                "be compared. Use method refine."
            )
        found = bridge.fit(target, outputs, feeds, seen, meter)
    return _concluded(plan, paired, found, "fitted to what the source's layer does")


def _refine(plan: Plan, models: Models, meter: _Meter) -> Moved:
    [auto] = run_all([dataclasses.replace(plan, options=dataclasses.replace(plan.options, method=AUTO))])
    if auto.report.declined and not auto.report.unrelated:
        return auto  # the target has the adapter already
    paired, prompts = _paired(plan), _prompts(plan, plan.running.pictures)
    with models.opened(plan.source) as source:
        meter.expect(len(content.chunks(plan.running.pictures, source.size)) + plan.running.steps)
        latents = content.pictures(source, plan.adapter.deltas_of(plan.source), prompts, meter)
        pictures = [source.decode(latents[rows]).half().cpu() for rows in content.chunks(len(latents), source.size)]
    with models.opened(plan.target) as target:
        latents = torch.cat([target.encode_pictures(_resized(part.float(), target)).cpu() for part in pictures])
        ranks = {layer.target: layer.rank for layer in paired.values()}
        start, rate = (auto.layers, RATE_RELATED) if auto.layers else (refine.blank(target, ranks), RATE_UNRELATED)
        layers = refine.refine(target, start, latents, prompts, steps=plan.running.steps, rate=rate, tick=meter)
    return _concluded(plan, paired, layers, "trained on what the source draws with the adapter")


def _prompts(plan: Plan, count: int) -> list[str]:
    file = Path(plan.running.captions) if plan.running.captions else None
    return with_triggers(captions(count, file), plan.adapter)


def _paired(plan: Plan) -> dict[str, _Paired]:
    """By name in the adapter; every delta is decoded once."""
    found = {}
    for name, pair in plan.pairs.items():
        if pair and pair.target:
            dW = plan.adapter.delta(name, plan.source)
            found[name] = _Paired(pair.source, pair.target, pair.reason, min(dW.rank, plan.limit(name) or dW.rank), dW.norm())
    return found


def _resized(pictures: torch.Tensor, target: Model) -> torch.Tensor:
    """To the size at home in the target."""
    side = 8 * target.size
    return torch.nn.functional.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def _concluded(plan: Plan, paired: Mapping[str, _Paired], layers: Mapping[str, LowRank], how: str) -> Moved:
    report = Report(
        [_record(name, paired[name], layers, how) if name in paired else unmatched(plan, name) for name in plan.pairs],
        plan.options.method,
        embeddings=plan.embeddings,
        vectors=tuple(dataclasses.replace(vector, target=None, reason=NO_VECTORS) for vector in plan.vectors),
    )
    return Moved(dict(layers), report)


def _record(name: str, layer: _Paired, layers: Mapping[str, LowRank], how: str) -> LayerRecord:
    record = LayerRecord(name, "skipped", LEFT_OUT, layer.norm, layer.source, layer.target, layer.reason)
    if (dW := layers.get(layer.target)) is None:
        return record
    return record.ended("transferred", how, kept=dW.norm() / layer.norm if layer.norm > 0 else 1.0, rank=dW.rank)


class _Meter:
    """Counts what is done of what is expected by now."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, more: int) -> None:
        self._total += more

    def __call__(self, name: str) -> None:
        self._progress(self._done, self._total, name)
        self._done += 1
