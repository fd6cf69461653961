"""What a report says of a method that runs the models, before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from lorax.files.cache import Cache
from lorax.low_rank import LowRank
from lorax.methods import AUTO, BRIDGE, REFINE
from lorax.models.runnable import check_all
from lorax.reasons import Reason, Why
from lorax.transfer.by_layer import unmatched
from lorax.transfer.cost import estimate
from lorax.transfer.feeds import Paired, fed, paired
from lorax.transfer.planning import Moved, Plan, Progress
from lorax.transfer.proposals import kind_of
from lorax.transfer.report import LayerRecord, Report
from lorax.transfer.running import run_all

HOW = {BRIDGE: "fitted to what the source's layer does", REFINE: "trained on what the source draws with the adapter"}
NO_VECTORS = Reason(Why.LOW_RANK_ONLY)
LEFT_OUT = "one of the models does not use it"


def by_weights(plans: Sequence[Plan], progress: Progress = lambda *step: None, cache: Cache | None = None) -> list[Moved]:
    """What ``auto`` moves, and says of the bases by a few of their layers."""
    return run_all(
        [dataclasses.replace(one, options=dataclasses.replace(one.options, method=AUTO)) for one in plans], progress, cache
    )


def has_already(plan: Plan, auto: Moved) -> bool:
    """Whether there is nothing to train, since the target has the adapter already."""
    return plan.options.method == REFINE and auto.report.declined is not None and not auto.report.unrelated


def foretold(plans: Sequence[Plan], progress: Progress, cache: Cache | None) -> list[Moved]:
    """What the method would do, and what that takes, without running a model or moving anything.

    Raises LoraxError if one of the bases cannot be run.
    """
    found = []
    check_all(plans[0].source, plans[0].target)
    for plan, auto in zip(plans, by_weights(plans, progress, cache), strict=True):
        if has_already(plan, auto):
            found.append(auto)
            continue
        how = f"to be {HOW[plan.options.method]}"
        feeds, pairs = fed(plan), paired(plan, partial(plan.adapter.delta, base=plan.source))
        known = {name: _record(layer).ended("transferred", how, rank=feeds[layer.target].rank) for name, layer in pairs.items()}
        cost = estimate(plan, related=bool(auto.layers)) if pairs else None
        found.append(Moved({}, dataclasses.replace(_report(plan, auto, known), cost=cost, beside=len(feeds) - len(pairs))))
    return found


def concluded(plan: Plan, auto: Moved, pairs: Mapping[str, Paired], layers: Mapping[str, LowRank]) -> Moved:
    """With the deltas that the method made, by target layer."""
    known = {name: _ended(plan, layer, layers.get(layer.target)) for name, layer in pairs.items()}
    own = {layer.target for layer in pairs.values()}
    useful = {layer: dW for layer, dW in layers.items() if layer in own or (dW.up.any() and dW.down.any())}
    return Moved(useful, dataclasses.replace(_report(plan, auto, known), beside=len(useful.keys() - own)))


def _record(layer: Paired) -> LayerRecord:
    return LayerRecord("", "skipped", LEFT_OUT, layer.norm, layer.source, layer.target, layer.reason)


def _ended(plan: Plan, layer: Paired, dW: LowRank | None) -> LayerRecord:
    if dW is None:
        return _record(layer)
    kept = dW.norm() / layer.norm if layer.norm > 0 else 1.0
    return _record(layer).ended("transferred", HOW[plan.options.method], kept=kept, rank=dW.rank)


def _report(plan: Plan, auto: Moved, known: Mapping[str, LayerRecord]) -> Report:
    """``known``: by name in the adapter, where there is a pair. How alike the layers are, as far as ``auto`` measured it."""
    similarity = {record.name: record.similarity for record in auto.report.records}
    return Report(
        [
            dataclasses.replace(known[name], name=name, similarity=similarity[name]) if name in known else unmatched(plan, name)
            for name in plan.pairs
        ],
        plan.options.method,
        unrelated=auto.report.unrelated,
        embeddings=plan.embeddings,
        vectors=tuple(dataclasses.replace(vector, target=None, reason=NO_VECTORS) for vector in plan.vectors),
        kind=kind_of(plan, auto.report.unrelated),
    )
