"""Assigns a source layer to every target layer that a method which runs the models gives a delta."""

import statistics

from lorax.checkpoint import component_of
from lorax.methods import Assignment
from lorax.options import DENSE_RANK
from lorax.transfer.planning import Plan


def assignments(plan: Plan) -> dict[str, Assignment]:
    """Return the assignments by target layer, from headers alone.

    They are the pairs of the adapter's layers. If a part of the adapter has no counterpart, all other layers that both models
    have in that component are assigned too, with the commonest rank: they can reproduce the effect that the part has on them.
    """
    ranks = {name: layer.rank if layer.is_low_rank else None for name, layer in plan.adapter.layers.items()}
    own = {
        pair.target: Assignment(pair.source, _rank(plan, pair.target, ranks[name]))
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


def _rank(plan: Plan, target: str, rank: int | None) -> int:
    """Return the requested rank, else ``rank``, limited by the largest rank and by the layer's size."""
    asked = plan.running.lora_rank or rank or DENSE_RANK
    return min(asked, plan.options.max_rank or asked, *plan.target.matrix(target))
