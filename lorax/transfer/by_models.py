"""Methods that run both models: what weights cannot tell of unrelated bases is told by what the models draw and compute.

One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.files.cache import Cache
from lorax.low_rank import LowRank
from lorax.methods import BRIDGE, bridge, refine
from lorax.methods.refine import Watch, unwatched
from lorax.models import sampling
from lorax.models.protocol import Model, Models
from lorax.models.runnable import check, check_all
from lorax.models.training import Factors, Scales
from lorax.transfer.feeds import Feed, fed, paired
from lorax.transfer.outcome import by_weights, concluded, foretold, has_already
from lorax.transfer.planning import Moved, Plan, Progress
from lorax.transfer.resume import NOTHING, Kept
from lorax.transfer.teacher import Drawn, draw


def run(
    plan: Plan,
    models: Models,
    progress: Progress,
    cache: Cache | None = None,
    *,
    start: str | None = None,
    watch: Watch = unwatched,
) -> Moved:
    """``bridge``, or ``refine`` from what ``auto`` moves, which between strangers is nothing, or from BRIDGE as ``start``.

    What the source draws is kept in ``cache``, for other targets too, and a ``refine`` that is stopped goes on where it was when
    it is asked for again. ``watch`` hears of its training, which then begins anew. Raises LoraxError if a model cannot be run.
    """
    check_all(plan.source, plan.target)
    if cache is not None and cache.is_on_disk:  # what is kept is found by their hashes
        for base in (plan.source, plan.target):
            base.identity.find(progress)
    meter, kept = _Meter(progress), Kept.of(plan, cache, start)
    [auto] = by_weights([plan], lambda done, total, name: progress(done, total, "comparing the checkpoints"), cache)
    if has_already(plan, auto):
        return auto
    adapter = plan.adapter.deltas_of(plan.source)
    pairs = paired(plan, {name: adapter[pair.source] for name, pair in plan.pairs.items() if pair}.__getitem__)
    if not pairs:
        return concluded(plan, auto, {}, {})
    job = _Job(plan, adapter, fed(plan), models, meter, kept)
    made = _bridge(job) if plan.options.method == BRIDGE else _refine(job, auto, start, watch)
    return concluded(plan, auto, pairs, made)


@dataclass(frozen=True)
class _Job:
    """What is moved, by source layer, to which target layers, and who is told of it."""

    plan: Plan
    adapter: Mapping[str, LowRank]
    feeds: Mapping[str, Feed]
    models: Models
    meter: _Meter
    kept: Kept


def _bridge(job: _Job) -> dict[str, LowRank]:
    plan, meter = job.plan, job.meter
    recorded = {feed.source for feed in job.feeds.values()}
    with job.models.opened(plan.source) as source:
        count = sampling.looked_at(plan.running.pictures, max(source.size, check(plan.target).size))
        meter.expect(len({*job.adapter, *recorded}) + len(job.feeds) + refine.SCALING)
        drawn = job.kept.drawn(plan, count) or _draw(job, source, count)
        seen = sampling.noised(source, drawn.latents_in(source, meter.still), drawn.prompts, count, seed=0)
        where = bridge.places(source, recorded, seen)
        outputs = bridge.record(source, job.adapter, recorded, seen, where, meter)
    with job.models.opened(plan.target) as target:
        latents = drawn.latents_in(target, meter.still)
        seen = sampling.noised(target, latents, drawn.prompts, count, seed=0)
        fitted = bridge.fit(target, outputs, job.feeds, seen, where, meter)
        return refine.refine(
            target,
            Scales(fitted, target.device),
            latents,
            drawn.prompts,
            steps=refine.SCALING,
            rate=refine.RATE_SCALES,
            tick=meter,
            still=meter.still,
        )


def _refine(job: _Job, auto: Moved, start: str | None, watch: Watch) -> dict[str, LowRank]:
    plan, meter, count = job.plan, job.meter, job.plan.running.pictures
    related = bool(auto.layers)
    rate = refine.RATE_RELATED if related else refine.RATE_UNRELATED
    steps = refine.steps_of(plan.running.steps, related)
    meter.expect(steps)
    first = _bridge(job) if start == BRIDGE else auto.layers
    if (drawn := job.kept.drawn(plan, count)) is None:
        with job.models.opened(plan.source) as source:
            drawn = _draw(job, source, count)
    with job.models.opened(plan.target) as target:
        ranks = {layer: feed.rank for layer, feed in job.feeds.items()}
        return refine.refine(
            target,
            Factors(refine.started(target, first, ranks), target.device),
            drawn.latents_in(target, meter.still),
            drawn.prompts,
            steps=steps,
            rate=rate,
            tick=meter,
            still=meter.still,
            watch=watch,
            kept=job.kept if watch is unwatched else NOTHING,
        )


def _draw(job: _Job, source: Model, count: int) -> Drawn:
    job.meter.expect(len(sampling.chunks(count, source.size)))
    drawn = draw(job.plan, source, job.adapter, count, job.meter, job.meter.still)
    job.kept.keep_drawn(drawn)
    return drawn


class _Meter:
    """Counts what is done of what is expected by now."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, more: int) -> None:
        self._total += more

    def still(self, name: str) -> None:
        """What is done before the next step."""
        self._progress(self._done, self._total, name)

    def __call__(self, name: str) -> None:
        self._progress(self._done, self._total, name)
        self._done += 1


__all__ = ["foretold", "run"]
