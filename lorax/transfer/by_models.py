"""Transfers by running both models: what they draw and compute tells what weights cannot tell of unrelated bases.

One model is in memory at a time; what the other needs of it is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

from lorax.errors import LoraxError
from lorax.low_rank import LowRank
from lorax.methods import AUTO, BRIDGE, METHODS, REFINE, Job, ModelMethod
from lorax.models import Model, Pictures, Watch, batches, check_all, draw
from lorax.pairing import Pair
from lorax.progress import Meter
from lorax.reasons import Reason, Why
from lorax.transfer import by_layer
from lorax.transfer.assignment import assignments
from lorax.transfer.cost import estimate
from lorax.transfer.expected import CROSSED, RELATIVES, STRANGERS
from lorax.transfer.planning import Context, Moved, Plan
from lorax.transfer.report import LayerRecord, Report, Status, Unrelated
from lorax.transfer.resume import Store
from lorax.transfer.teaching import prompts_of


def run(plan: Plan, context: Context, *, start: str | None = None, watch: Watch | None = None) -> Moved:
    """Move one adapter. A training starts from what ``auto`` moves, or from what ``bridge`` gives if that is the ``start``.

    What the source draws is kept in the cache, for other targets too. A training that was stopped resumes when it is asked for
    again; if somebody watches it, it begins anew. Raises LoraxError if a model cannot be run.
    """
    if context.models is None:
        raise LoraxError(f"method {plan.options.method} runs the models, and nothing is given that runs them.")
    check_all(plan.source, plan.target)
    if context.cache is not None and context.cache.is_on_disk:  # what is kept is found by their hashes
        for base in (plan.source, plan.target):
            base.identity.find(context.progress)
    auto = _by_weights(plan, context)
    if _has_already(plan, auto):
        return auto
    store, meter, method = Store.of(plan, context.cache, start), Meter(context.progress), _method(plan)
    deltas = plan.adapter.deltas_of(plan.source)
    assigned = assignments(plan)
    if not assigned:
        return concluded(plan, auto, {}, {})
    job = Job(
        plan.source,
        plan.target,
        deltas,
        assigned,
        context.models,
        _Teacher(plan, deltas, store, meter),
        meter,
        plan.running.pictures,
        plan.running.steps,
        auto.layers,
        bool(auto.layers),
        store,
        watch,
    )
    if start == BRIDGE:
        job = dataclasses.replace(job, start=_method_of(BRIDGE).fit(job))
    return concluded(plan, auto, method.fit(job), deltas)


def foretold(plan: Plan, context: Context) -> Moved:
    """Tell what the method would do, and what that takes, without running a model or moving anything.

    Raises LoraxError if one of the bases cannot be run.
    """
    check_all(plan.source, plan.target)
    auto = _by_weights(plan, context)
    if _has_already(plan, auto):
        return auto
    assigned, how = assignments(plan), Reason(_method(plan).planned)
    records = {}
    for name, (pair, target) in _paired(plan).items():
        record = _record(name, pair, plan.adapter.delta(name, plan.source).norm())
        records[name] = record(status=Status.TRANSFERRED, reason=how, rank=assigned[target].rank)
    cost = estimate(plan, related=bool(auto.layers)) if records else None
    extra = len(assigned) - len(records)
    return Moved({}, dataclasses.replace(_report(plan, auto, records), cost=cost, extra_layers=extra))


def kind_of(plan: Plan, unrelated: Unrelated | None) -> str:
    """Return the kind of the pair of bases. ``unrelated``: why they are no relatives, if so."""
    if not plan.within_family:
        return CROSSED
    return STRANGERS if unrelated else RELATIVES


class _Teacher:
    """The source with the adapter, drawing for a target to learn from."""

    def __init__(self, plan: Plan, deltas: Mapping[str, LowRank], store: Store, meter: Meter) -> None:
        self._plan, self._deltas, self._store, self._meter = plan, deltas, store, meter

    def stored(self, count: int) -> Pictures | None:
        return self._store.pictures(self._plan, count)

    def draw(self, source: Model, count: int) -> Pictures:
        self._meter.expect(len(batches(count, source.size)))
        prompts = prompts_of(self._plan, count)
        latents = draw(source, self._deltas, prompts, self._meter)
        pictures = Pictures.decoded(source, latents, prompts, self._meter)
        self._store.save_pictures(pictures)
        return pictures


def _by_weights(plan: Plan, context: Context) -> Moved:
    """Return what ``auto`` moves, and says of the bases by a few of their layers."""

    def comparing(done: int, total: int, name: str) -> None:
        context.progress(done, total, "comparing the checkpoints")

    of_auto = dataclasses.replace(plan, options=dataclasses.replace(plan.options, method=AUTO))
    return by_layer.run([of_auto], dataclasses.replace(context, progress=comparing))[0]


def _has_already(plan: Plan, auto: Moved) -> bool:
    """Tell whether there is nothing to train, since the target has the adapter already."""
    return plan.options.method == REFINE and auto.report.declined is not None and not auto.report.unrelated


def _method(plan: Plan) -> ModelMethod:
    return _method_of(plan.options.method)


def _method_of(name: str) -> ModelMethod:
    method = METHODS[name]
    assert isinstance(method, ModelMethod)
    return method


def concluded(plan: Plan, auto: Moved, layers: Mapping[str, LowRank], deltas: Mapping[str, LowRank]) -> Moved:
    """Conclude with the deltas that the method made, by target layer. ``deltas``: those of the adapter, by source layer."""
    records, own = {}, set()
    for name, (pair, target) in (_paired(plan) if deltas else {}).items():
        norm, dW = deltas[pair.source].norm(), layers.get(target)
        record = _record(name, pair, norm)
        own.add(target)
        if dW is None:
            records[name] = record(status=Status.SKIPPED, reason=Reason(Why.NOT_USED))
        else:
            kept = dW.norm() / norm if norm > 0 else 1.0
            records[name] = record(status=Status.TRANSFERRED, reason=Reason(_method(plan).done), kept=kept, rank=dW.rank)
    useful = {layer: dW for layer, dW in layers.items() if layer in own or (dW.up.any() and dW.down.any())}
    return Moved(useful, dataclasses.replace(_report(plan, auto, records), extra_layers=len(useful.keys() - own)))


def _paired(plan: Plan) -> dict[str, tuple[Pair, str]]:
    """Return the pairs of the adapter's layers that have a target layer, and that layer, by name."""
    return {name: (pair, pair.target) for name, pair in plan.pairs.items() if pair and pair.target}


def _record(name: str, pair: Pair, norm: float) -> Callable[..., LayerRecord]:
    """Return what makes the record of a layer that has a pair, once it is known how the layer ended."""
    return partial(LayerRecord, name=name, norm=norm, source=pair.source, target=pair.target, pairing=pair.reason)


def _report(plan: Plan, auto: Moved, records: Mapping[str, LayerRecord]) -> Report:
    """Report on ``records``, by name in the adapter, and on the layers without a pair. ``auto`` tells how alike layers are."""
    similarity = {record.name: record.similarity for record in auto.report.records}
    return Report(
        [
            dataclasses.replace(records[name], similarity=similarity[name]) if name in records else by_layer.unmatched(plan, name)
            for name in plan.pairs
        ],
        plan.options.method,
        unrelated=auto.report.unrelated,
        embeddings=plan.embeddings,
        vectors=tuple(dataclasses.replace(vector, target=None, reason=Reason(Why.LOW_RANK_ONLY)) for vector in plan.vectors),
        kind=kind_of(plan, auto.report.unrelated),
    )
