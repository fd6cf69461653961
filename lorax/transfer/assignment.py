"""Assigns a source layer to every target layer that a method which runs the models gives a delta."""

from __future__ import annotations

import statistics

from lorax.checkpoint import component_of
from lorax.methods import Assignment
from lorax.options import DENSE_RANK
from lorax.transfer.planning import Plan


def assignments(plan: Plan) -> dict[str, Assignment]:
    """Return assignments by target layer, told by headers alone.

    These are the layers that have a pair in the adapter. If a part of the adapter has no counterpart, every layer that both
    models have in that component joins them: what the part does reaches these layers in the source, and can be had from them in
    the target. Their rank is the commonest one.
    """
    own = {
        pair.target: Assignment(pair.source, _rank(plan, pair.target, _rank_in_file(plan, name)))
        for name, pair in plan.pairs.items()
        if pair and pair.target
    }
    if not own:
        return {}
    commonest = statistics.mode(one.rank for one in own.values())
    touched = {pair.source for pair in plan.pairs.values() if pair}
    lacking = {component_of(pair.source) for pair in plan.pairs.values() if pair and not pair.target}
    return own | {
        pair.target: Assignment(layer, _rank(plan, pair.target, commonest))
        for layer, pair in plan.of_bases.items()
        if pair.target and layer not in touched and component_of(layer) in lacking
    }


def _rank_in_file(plan: Plan, name: str) -> int:
    stored = plan.adapter.layers[name]
    rank = stored.rank if stored.is_low_rank else None
    return DENSE_RANK if rank is None else rank


def _rank(plan: Plan, target: str, rank: int) -> int:
    """Return the rank that is asked for, else ``rank``, within the largest one and what the layer can have."""
    asked = plan.running.lora_rank or rank
    return min(asked, plan.options.max_rank or asked, *plan.target.matrix(target))
