"""Methods that run both models: what weights cannot tell of unrelated bases is told by what the models draw and compute.

One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.adapter import LowRank
from lorax.behaviour import bridge, content, refine
from lorax.behaviour.drawn import Drawn, draw
from lorax.behaviour.kept import Kept
from lorax.behaviour.model import Model, Models
from lorax.behaviour.outcome import Paired, by_weights, concluded, foretold, has_already, paired
from lorax.behaviour.refine import (
    RATE_RELATED,
    RATE_SCALES,
    RATE_UNRELATED,
    SCALING,
    STEPS_RELATED,
    STEPS_UNRELATED,
    Watch,
    unwatched,
)
from lorax.behaviour.training import Factors, Scales
from lorax.cache import Cache
from lorax.methods import AUTO, BRIDGE
from lorax.transfer import Moved, Plan, Progress

NOTHING = "nothing"


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
    meter, kept, [auto] = _Meter(progress), Kept.of(plan, cache, start), by_weights([plan])
    if has_already(plan, auto):
        return auto
    pairs = paired(plan)
    if plan.options.method == BRIDGE:
        return concluded(plan, auto, pairs, _bridge(plan, pairs, models, meter, kept))
    moved = concluded(plan, auto, pairs, _refine(plan, auto, pairs, models, meter, kept, start, watch))
    kept.remove()
    return moved


def _bridge(plan: Plan, pairs: Mapping[str, Paired], models: Models, meter: _Meter, kept: Kept) -> dict[str, LowRank]:
    adapter = plan.adapter.deltas_of(plan.source)
    feeds = {layer.target: (layer.source, layer.rank) for layer in pairs.values()}
    recorded = {source: adapter[source] for source, _ in feeds.values()}
    with models.opened(plan.source) as source:
        count = content.looked_at(plan.running.pictures, source.size)
        meter.expect(len(adapter) + len(feeds) + SCALING)
        drawn = kept.drawn(plan, count) or _draw(plan, source, adapter, count, meter, kept)
        seen = content.noised(source, drawn.latents_in(source), drawn.prompts, count, seed=0)
        where = bridge.places(source, list(recorded), seen)
        outputs = bridge.record(source, adapter, seen, where, meter)
    with models.opened(plan.target) as target:
        latents = drawn.latents_in(target)
        seen = content.noised(target, latents, drawn.prompts, count, seed=0)
        fitted = bridge.fit(target, outputs, feeds, seen, where, meter)
        scales = Scales(fitted, target.device)
        return refine.refine(target, scales, latents, drawn.prompts, steps=SCALING, rate=RATE_SCALES, tick=meter)


def _refine(
    plan: Plan,
    auto: Moved,
    pairs: Mapping[str, Paired],
    models: Models,
    meter: _Meter,
    kept: Kept,
    start: str | None,
    watch: Watch,
) -> dict[str, LowRank]:
    adapter, count = plan.adapter.deltas_of(plan.source), plan.running.pictures
    rate, most = (RATE_RELATED, STEPS_RELATED) if auto.layers else (RATE_UNRELATED, STEPS_UNRELATED)
    start, steps = start or (AUTO if auto.layers else NOTHING), plan.running.steps or most
    meter.expect(steps)
    first = _bridge(plan, pairs, models, meter, kept) if start == BRIDGE else auto.layers
    if (drawn := kept.drawn(plan, count)) is None:
        with models.opened(plan.source) as source:
            drawn = _draw(plan, source, adapter, count, meter, kept)
    with models.opened(plan.target) as target:
        if start == NOTHING:
            first = refine.blank(target, {layer.target: layer.rank for layer in pairs.values()})
        factors, latents = Factors(first, target.device), drawn.latents_in(target)
        return refine.refine(target, factors, latents, drawn.prompts, steps=steps, rate=rate, tick=meter, watch=watch, kept=kept)


def _draw(plan: Plan, source: Model, adapter: Mapping[str, LowRank], count: int, meter: _Meter, kept: Kept) -> Drawn:
    meter.expect(len(content.chunks(count, source.size)))
    drawn = draw(plan, source, adapter, count, meter)
    kept.keep_drawn(drawn)
    return drawn


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
