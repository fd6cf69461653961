"""Transfers by running both models, which also works between unrelated bases. One model is in memory at a time."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

from lorax.errors import LoraxError
from lorax.low_rank import LowRank
from lorax.methods import AUTO, BRIDGE, REFINE, Job, model_method, refine
from lorax.models import Answers, Model, Pictures, Watch, check_all, draw
from lorax.pairing import Pair
from lorax.progress import COMPARING, Meter
from lorax.reasons import Reason, Why
from lorax.transfer import by_layer
from lorax.transfer.assignment import assignments
from lorax.transfer.cost import estimate
from lorax.transfer.expected import CROSSED, RELATIVES, STRANGERS
from lorax.transfer.planning import Context, Moved, Plan
from lorax.transfer.report import LayerRecord, Report, Status, Unrelated
from lorax.transfer.resume import Store
from lorax.transfer.spool import Layers
from lorax.transfer.teaching import prompts_of


def run(plan: Plan, context: Context, *, start: str | None = None, watch: Watch | None = None) -> Moved:
    """Move one adapter. A training starts from the result of ``auto``, or of ``bridge`` if that is the ``start``.

    What the source draws or predicts is cached, also for other targets that take as much. An interrupted training resumes from
    the cache, unless it has a ``watch``. Raises LoraxError if a model cannot be run.
    """
    if context.models is None:
        raise LoraxError(f"method {plan.options.method} runs the models, and nothing is given that runs them.")
    check_all(plan.source, plan.target)
    find_hashes(plan, context)
    auto = _by_weights(plan, context)
    if _has_already(plan, auto):
        return auto
    kinship = plan.kinship(related=bool(auto.layers))
    meter, method = context.meter, model_method(plan.options.method)
    # What is kept of a training must not be taken for that of another default.
    pictures, steps = method.pictures(plan.running.pictures, kinship), refine.steps_of(plan.running.steps, kinship)
    running = dataclasses.replace(plan.running, pictures=pictures, steps=steps)
    store = Store.of(dataclasses.replace(plan, running=running), context.cache, start)
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
        pictures,
        steps,
        auto.layers,
        kinship,
        store,
        watch,
    )
    if start == BRIDGE:
        first = model_method(BRIDGE)
        its = dataclasses.replace(job, pictures=first.pictures(plan.running.pictures, kinship))
        job = dataclasses.replace(job, start=first.fit(its))
    return concluded(plan, auto, method.fit(job), deltas)


def find_hashes(plan: Plan, context: Context) -> None:
    """Hash the bases if there is a cache on the disk, whose keys contain that."""
    if context.cache is not None and context.cache.is_on_disk:
        for base in (plan.source, plan.target):
            base.identity.find(context.meter)


def foretold(plan: Plan, context: Context) -> Moved:
    """Return a report of what the method would do, and its cost, without running a model. Raises LoraxError as ``run`` does."""
    check_all(plan.source, plan.target)
    auto = _by_weights(plan, context)
    if _has_already(plan, auto):
        return auto
    assigned, how = assignments(plan), Reason(model_method(plan.options.method).planned)
    records = {}
    for name, (pair, target) in _paired(plan).items():
        record = _record(name, pair, plan.adapter.delta(name, plan.source).norm())
        records[name] = record(status=Status.TRANSFERRED, reason=how, rank=assigned[target].rank)
    cost = estimate(plan, cache=context.cache) if records else None
    extra = len(assigned) - len(records)
    return Moved(Layers(), dataclasses.replace(_report(plan, auto, records), cost=cost, extra_layers=extra))


def kind_of(plan: Plan, unrelated: Unrelated | None) -> str:
    """Return the kind of the pair of bases: RELATIVES, STRANGERS or CROSSED."""
    if not plan.within_family:
        return CROSSED
    return STRANGERS if unrelated else RELATIVES


class _Teacher:
    """The source with the adapter, from which a target learns; implements ``lorax.methods.job.Teacher``."""

    def __init__(self, plan: Plan, deltas: Mapping[str, LowRank], store: Store, meter: Meter) -> None:
        self._plan, self._deltas, self._store, self._meter = plan, deltas, store, meter

    def stored(self, count: int) -> Pictures | None:
        return self._store.pictures(self._plan, count)

    def draw(self, source: Model, count: int) -> Pictures:
        prompts = prompts_of(self._plan, count)
        latents = draw(source, self._deltas, prompts, self._meter)
        pictures = Pictures.decoded(source, latents, prompts, self._meter)
        self._store.save_pictures(pictures)
        return pictures

    def stored_answers(self, count: int) -> Answers | None:
        return self._store.answers(self._plan, count)

    def answer(self, source: Model, count: int) -> Answers:
        prompts = prompts_of(self._plan, count)
        latents = draw(source, self._deltas, prompts, self._meter)
        answers = Answers.of(source, self._deltas, latents, prompts, self._meter)
        self._store.save_answers(answers)
        return answers


def _by_weights(plan: Plan, context: Context) -> Moved:
    """Return the result of ``auto``, which also tells whether the bases are related."""
    of_auto = dataclasses.replace(plan, options=dataclasses.replace(plan.options, method=AUTO))
    return by_layer.run([of_auto], context, phase=COMPARING)[0]


def _has_already(plan: Plan, auto: Moved) -> bool:
    """Tell whether the target has the adapter already, so that there is nothing to train."""
    return plan.options.method == REFINE and auto.report.declined is not None and not auto.report.unrelated


def concluded(plan: Plan, auto: Moved, layers: Mapping[str, LowRank], deltas: Mapping[str, LowRank]) -> Moved:
    """Return the method's ``layers``, by target layer, with their report. ``deltas`` are the adapter's, by source layer."""
    done = Reason(model_method(plan.options.method).done)
    records, own = {}, set()
    for name, (pair, target) in (_paired(plan) if deltas else {}).items():
        norm, dW = deltas[pair.source].norm(), layers.get(target)
        record = _record(name, pair, norm)
        own.add(target)
        if dW is None:
            records[name] = record(status=Status.SKIPPED, reason=Reason(Why.NOT_USED))
        else:
            kept = dW.norm() / norm if norm > 0 else 1.0
            records[name] = record(status=Status.TRANSFERRED, reason=done, kept=kept, rank=dW.rank)
    useful = {layer: dW for layer, dW in layers.items() if layer in own or (dW.up.any() and dW.down.any())}
    report = dataclasses.replace(_report(plan, auto, records), extra_layers=len(useful.keys() - own))
    return Moved(Layers.of(useful.items()), report)


def _paired(plan: Plan) -> dict[str, tuple[Pair, str]]:
    """Return the pair and the target layer of each layer in the adapter that has one, by name."""
    return {name: (pair, pair.target) for name, pair in plan.pairs.items() if pair and pair.target}


def _record(name: str, pair: Pair, norm: float) -> Callable[..., LayerRecord]:
    """Return a function that makes the record of a layer that has a pair, from how the layer ended."""
    return partial(LayerRecord, name=name, norm=norm, source=pair.source, target=pair.target, pairing=pair.reason)


def _report(plan: Plan, auto: Moved, records: Mapping[str, LayerRecord]) -> Report:
    """Return the report on ``records``, by name in the adapter, and on layers without a pair, with similarities from ``auto``."""
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
