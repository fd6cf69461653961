"""Methods that run both models: what weights cannot tell of unrelated bases is told by what the models draw and compute.

One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from lorax.adapter import LowRank
from lorax.behaviour import bridge, content, refine
from lorax.behaviour.drawn import Drawn, draw
from lorax.behaviour.kept import Kept
from lorax.behaviour.model import Model, Models
from lorax.behaviour.refine import Watch, unwatched
from lorax.behaviour.training import Factors, Scales
from lorax.cache import Cache
from lorax.methods import AUTO, BRIDGE
from lorax.moving import unmatched
from lorax.report import LayerRecord, Report
from lorax.transfer import Moved, Plan, Progress, run_all

# What served unrelated and related bases best (docs/behaviour.md).
RATE_UNRELATED, RATE_RELATED = 5e-3, 2e-3
STEPS_UNRELATED, STEPS_RELATED = 150, 10
RATE_SCALES, SCALING = 3e-2, 40  # steps
NOTHING = "nothing"
NO_VECTORS = "this method makes low-rank layers only"
LEFT_OUT = "one of the models does not use it"


@dataclass(frozen=True)
class _Paired:
    """A layer of the adapter that has a pair, with what is known of its delta."""

    source: str
    target: str
    reason: str  # of the pair
    rank: int  # the adapter's, but no more than is asked for
    norm: float


def run(
    plan: Plan,
    models: Models,
    progress: Progress,
    cache: Cache | None = None,
    *,
    start: str | None = None,
    watch: Watch = unwatched,
) -> Moved:
    """``bridge``, or ``refine`` from ``start``, which is NOTHING, AUTO or BRIDGE; by default what served best.

    What the source draws is kept in ``cache``, for other targets too, and a ``refine`` that is stopped goes on where it was when
    it is asked for again. ``watch`` hears of its training. Raises LoraxError if a model cannot be run.
    """
    meter, kept = _Meter(progress), Kept.of(plan, cache, start)
    if plan.options.method == BRIDGE:
        return _bridge(plan, models, meter, kept)
    moved = _refine(plan, models, meter, kept, start, watch)
    kept.remove()
    return moved


def _bridge(plan: Plan, models: Models, meter: _Meter, kept: Kept) -> Moved:
    paired, adapter = _paired(plan), plan.adapter.deltas_of(plan.source)
    feeds = {layer.target: (layer.source, layer.rank) for layer in paired.values()}
    recorded = {source: adapter[source] for source, _ in feeds.values()}
    with models.opened(plan.source) as source:
        count = max(content.FEWEST, content.fitting(plan.running.pictures, source.size))
        meter.expect(len(adapter) + len(feeds) + SCALING)
        drawn = kept.drawn(plan, count) or _draw(plan, source, adapter, count, meter, kept)
        seen = content.noised(source, drawn.latents, drawn.prompts, count, seed=0)
        where = bridge.places(source, list(recorded), seen)
        outputs = bridge.record(source, adapter, seen, where, meter)
    with models.opened(plan.target) as target:
        latents = drawn.latents_in(target)
        seen = content.noised(target, latents, drawn.prompts, count, seed=0)
        fitted = bridge.fit(target, outputs, feeds, seen, where, meter)
        scales = Scales(fitted, target.device)
        found = refine.refine(target, scales, latents, drawn.prompts, steps=SCALING, rate=RATE_SCALES, tick=meter)
    return _concluded(plan, paired, found, "fitted to what the source's layer does")


def _refine(plan: Plan, models: Models, meter: _Meter, kept: Kept, start: str | None, watch: Watch) -> Moved:
    [auto] = run_all([dataclasses.replace(plan, options=dataclasses.replace(plan.options, method=AUTO))])
    if auto.report.declined and not auto.report.unrelated:
        return auto  # the target has the adapter already
    paired, adapter, count = _paired(plan), plan.adapter.deltas_of(plan.source), plan.running.pictures
    rate, most = (RATE_RELATED, STEPS_RELATED) if auto.layers else (RATE_UNRELATED, STEPS_UNRELATED)
    start, steps = start or (AUTO if auto.layers else NOTHING), plan.running.steps or most
    meter.expect(steps)
    first = _bridge(plan, models, meter, kept).layers if start == BRIDGE else auto.layers
    if (drawn := kept.drawn(plan, count)) is None:
        with models.opened(plan.source) as source:
            drawn = _draw(plan, source, adapter, count, meter, kept)
    with models.opened(plan.target) as target:
        if start == NOTHING:
            first = refine.blank(target, {layer.target: layer.rank for layer in paired.values()})
        factors, latents = Factors(first, target.device), drawn.latents_in(target)
        layers = refine.refine(
            target, factors, latents, drawn.prompts, steps=steps, rate=rate, tick=meter, watch=watch, kept=kept
        )
    return _concluded(plan, paired, layers, "trained on what the source draws with the adapter")


def _draw(plan: Plan, source: Model, adapter: Mapping[str, LowRank], count: int, meter: _Meter, kept: Kept) -> Drawn:
    meter.expect(len(content.chunks(count, source.size)))
    drawn = draw(plan, source, adapter, count, meter)
    kept.keep_drawn(drawn)
    return drawn


def _paired(plan: Plan) -> dict[str, _Paired]:
    """By name in the adapter; every delta is decoded once."""
    found = {}
    for name, pair in plan.pairs.items():
        if pair and pair.target:
            dW = plan.adapter.delta(name, plan.source)
            found[name] = _Paired(pair.source, pair.target, pair.reason, min(dW.rank, plan.limit(name) or dW.rank), dW.norm())
    return found


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
