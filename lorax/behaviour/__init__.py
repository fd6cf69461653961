"""Methods that run both models: what weights cannot tell of unrelated bases is measured on what the models do.

They need diffusers and transformers (the demo extra). One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax.adapter import LowRank
from lorax.behaviour import bridge, content
from lorax.behaviour.captions import captions, with_triggers
from lorax.behaviour.content import Content
from lorax.behaviour.refine import Lesson, refine
from lorax.errors import LoraxError
from lorax.forecast import are_alike, known
from lorax.methods import AUTO, BRIDGE, REFINE
from lorax.report import LayerRecord, Report
from lorax.runner import Runner
from lorax.transfer import NOT_THERE, Moved, Plan, Progress, pick_device, run_all

PICTURES = 384
NOISY = 1024  # of them, for refining
# What served unrelated and related bases best (docs/behaviour.md).
RATE_UNRELATED, RATE_RELATED = 5e-3, 2e-3
ELSEWHERE = "it computes at other positions than the source's layer"
Feeds = Mapping[str, tuple[str, int]]  # target layer -> source layer, rank


@dataclass(frozen=True)
class Seen:
    """What was seen of the source."""

    latent_scale: float
    size: int  # of latents, a side
    calm: Content
    outputs: bridge.Outputs | None  # on ``calm``
    many: Content
    change: torch.Tensor | None  # by the adapter, of the predictions on ``many``


def run(plan: Plan, progress: Progress) -> Moved:
    """``bridge``, or ``refine``, which starts from what ``auto`` moves between relatives, and from a bridge between strangers.

    Raises LoraxError if a model cannot be run, or if the two do not draw in the same latent space.
    """
    options, refining = plan.options, plan.options.method == REFINE
    [auto] = run_all([dataclasses.replace(plan, options=dataclasses.replace(options, method=AUTO))])
    if refining and auto.report.declined and are_alike(known(auto.report)):
        return auto  # the target has the adapter already
    feeds = {} if refining and auto.layers else _feeds(plan)
    meter = _Meter(progress)
    seen = _see(plan, feeds, meter)
    target = Runner(plan.target.path, device=pick_device(options.device))
    if (target.latent_scale, target.size) != (seen.latent_scale, seen.size):
        raise LoraxError(
            f"{plan.source.path} and {plan.target.path} draw in different latent spaces, so that what they do cannot be compared "
            "picture by picture. Name a method that needs the weights alone."
        )
    layers: Mapping[str, LowRank] = bridge.fit(target, seen.outputs, feeds, seen.calm, meter) if seen.outputs else auto.layers
    if seen.change is not None:
        lesson = Lesson(seen.many, content.predictions(target, seen.many, meter), seen.change)
        layers = refine(
            target, layers, lesson, steps=plan.running.steps, rate=RATE_UNRELATED if feeds else RATE_RELATED, tick=meter
        )
    return Moved(dict(layers), Report([_record(plan, name, layers) for name in plan.pairs], options.method))


def _feeds(plan: Plan) -> Feeds:
    most = plan.options.max_rank or sys.maxsize
    ranks = {name: min(plan.adapter.delta(name).rank, most) for name in plan.pairs}
    return {pair.target: (pair.source, ranks[name]) for name, pair in plan.pairs.items() if pair and pair.target}


def _see(plan: Plan, feeds: Feeds, meter: _Meter) -> Seen:
    """Run the source, which is gone afterwards."""
    source, adapter = Runner(plan.source.path, device=pick_device(plan.options.device)), plan.adapter.path
    change, refining = None, plan.options.method == REFINE
    count = max(content.FEWEST, content.fitting(PICTURES, source.size))
    noisy = max(count, content.fitting(NOISY, source.size))
    meter.expect(content.batches(count, source.size))
    meter.expect(2 + len(feeds) if feeds else 0)
    meter.expect(3 * content.batches(noisy, source.size) + plan.running.steps if refining else 0)
    file = Path(plan.running.captions) if plan.running.captions else None
    prompts = with_triggers(captions(count, file), plan.adapter)
    drawn = content.pictures(source, prompts, meter)
    calm, many = (content.noised(source, drawn, prompts, one, seed) for seed, one in enumerate((count, noisy)))
    outputs = bridge.record(source, adapter, list({layer: None for layer, _ in feeds.values()}), calm, meter) if feeds else None
    if refining:
        alone = content.predictions(source, many, meter)
        with source.adapted(adapter):
            change = content.predictions(source, many, meter) - alone
    return Seen(source.latent_scale, source.size, calm, outputs, many, change)


def _record(plan: Plan, name: str, layers: Mapping[str, LowRank]) -> LayerRecord:
    norm, pair = plan.adapter.delta(name).norm(), plan.pairs[name]
    if pair is None or pair.target is None:
        return LayerRecord(name, "unmatched", pair.reason if pair else NOT_THERE, norm, source=pair.source if pair else None)
    record = LayerRecord(name, "skipped", ELSEWHERE, norm, pair.source, pair.target, pair.reason)
    if (dW := layers.get(pair.target)) is None:
        return record
    how = (
        "fitted to what the source's layer does"
        if plan.options.method == BRIDGE
        else "trained to change what the target predicts"
    )
    return record.ended("transferred", how, kept=dW.norm() / norm if norm > 0 else 1.0, rank=dW.rank)


class _Meter:
    """Counts what is done of what is expected by now."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, more: int) -> None:
        self._total += more

    def __call__(self, name: str) -> None:
        self._progress(self._done, self._total, name)
        self._done += 1
