"""Methods that run both models: what weights cannot tell of unrelated bases is told by what the models draw and compute.

They need diffusers and transformers (the demo extra). One model is in memory at a time; what the other needs of it is kept.
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
from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.methods import AUTO, BRIDGE
from lorax.moving import unmatched
from lorax.report import LayerRecord, Report
from lorax.runner import PIXELS, Runner
from lorax.transfer import Moved, Plan, Progress, pick_device, run_all

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


def run(plan: Plan, progress: Progress) -> Moved:
    """``bridge``, or ``refine``, which between relatives starts from what ``auto`` moves.

    Raises LoraxError if a model cannot be run, or if a bridge is asked for between models that draw in different latent spaces.
    """
    return (_bridge if plan.options.method == BRIDGE else _refine)(plan, _Meter(progress))


def _bridge(plan: Plan, meter: _Meter) -> Moved:
    source, paired = _open(plan, plan.source), _paired(plan)
    feeds = {layer.target: (layer.source, layer.rank) for layer in paired.values()}
    count = max(content.FEWEST, content.fitting(plan.running.pictures, source.size))
    meter.expect(len(content.chunks(count, source.size)) + 2 + len(feeds))
    prompts, latents = _drawn(plan, source, count, meter)
    seen = content.noised(source, latents, prompts, count, seed=0)
    outputs = bridge.record(
        source, plan.adapter.path, list(dict.fromkeys(layer.source for layer in paired.values())), seen, meter
    )
    space = source.latent_scale, source.size
    del source
    target = _open(plan, plan.target)
    if (target.latent_scale, target.size) != space:
        raise LoraxError(
            f"{plan.source.path} and {plan.target.path} draw in different latent spaces, so that what their layers do cannot be "
            "compared. Use method refine."
        )
    return _concluded(plan, paired, bridge.fit(target, outputs, feeds, seen, meter), "fitted to what the source's layer does")


def _refine(plan: Plan, meter: _Meter) -> Moved:
    [auto] = run_all([dataclasses.replace(plan, options=dataclasses.replace(plan.options, method=AUTO))])
    if auto.report.declined and not auto.report.unrelated:
        return auto  # the target has the adapter already
    source, paired = _open(plan, plan.source), _paired(plan)
    meter.expect(len(content.chunks(plan.running.pictures, source.size)) + plan.running.steps)
    prompts, latents = _drawn(plan, source, plan.running.pictures, meter)
    pictures = torch.cat([source.decode(latents[rows]).cpu() for rows in content.chunks(len(latents), source.size)])
    del source
    target = _open(plan, plan.target)
    latents = target.encode_pictures(_resized(pictures, target)).cpu()
    ranks = {layer.target: layer.rank for layer in paired.values()}
    start, rate = (auto.layers, RATE_RELATED) if auto.layers else (refine.blank(target, ranks), RATE_UNRELATED)
    layers = refine.refine(target, start, latents, prompts, steps=plan.running.steps, rate=rate, tick=meter)
    return _concluded(plan, paired, layers, "trained on what the source draws with the adapter")


def _open(plan: Plan, base: Checkpoint) -> Runner:
    return Runner(base.path, device=pick_device(plan.options.device))


def _paired(plan: Plan) -> dict[str, _Paired]:
    """By name in the adapter; every delta is decoded once."""
    found = {}
    for name, pair in plan.pairs.items():
        if pair and pair.target:
            dW = plan.adapter.delta(name, plan.source)
            found[name] = _Paired(pair.source, pair.target, pair.reason, min(dW.rank, plan.limit(name) or dW.rank), dW.norm())
    return found


def _drawn(plan: Plan, source: Runner, count: int, meter: _Meter) -> tuple[list[str], torch.Tensor]:
    """Prompts, and latents (P, 4, h, w) of what the source draws for them with the adapter."""
    file = Path(plan.running.captions) if plan.running.captions else None
    prompts = with_triggers(captions(count, file), plan.adapter)
    with source.adapted(plan.adapter.path):
        return prompts, content.pictures(source, prompts, meter)


def _resized(pictures: torch.Tensor, target: Runner) -> torch.Tensor:
    """To the size at home in the target, 8 pixels a latent."""
    side = PIXELS * target.size
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
