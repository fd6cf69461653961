"""Which target layers get a delta by running the models, what feeds them, and of which rank they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.adapter import LowRank
from lorax.transfer import Plan


@dataclass(frozen=True)
class Paired:
    """A layer of the adapter that has a pair, with what is known of its delta."""

    source: str
    target: str
    reason: str  # of the pair
    rank: int  # as asked for, else the adapter's within the largest one
    norm: float


def paired(plan: Plan, adapter: Mapping[str, LowRank]) -> dict[str, Paired]:
    """By name in the adapter, whose deltas are given by source layer."""
    found = {}
    for name, pair in plan.pairs.items():
        if pair and pair.target:
            dW = adapter[pair.source]
            rank = plan.running.lora_rank or min(dW.rank, plan.limit(name) or dW.rank)
            found[name] = Paired(pair.source, pair.target, pair.reason, min(rank, *plan.target.matrix(pair.target)), dW.norm())
    return found


def beside(plan: Plan) -> dict[str, str]:
    """Target layer -> source layer, of those that the adapter leaves alone, in components where a part of it has no counterpart.

    What that part does reaches them in the source, and can be had from them in the target. None where no layer has a counterpart.
    """
    if not any(pair and pair.target for pair in plan.pairs.values()):
        return {}
    touched = {pair.source for pair in plan.pairs.values() if pair}
    lacking = {_component(pair.source) for pair in plan.pairs.values() if pair and not pair.target}
    return {
        pair.target: layer
        for layer, pair in plan.of_bases.items()
        if pair.target and layer not in touched and _component(layer) in lacking
    }


def fed(plan: Plan, pairs: Mapping[str, Paired]) -> dict[str, tuple[str, int]]:
    """Target layer -> (source layer, rank), of all that get a delta: those that have a pair, and those beside them."""
    own = {layer.target: (layer.source, layer.rank) for layer in pairs.values()}
    rank = max((layer.rank for layer in pairs.values()), default=0)
    return own | {target: (source, min(rank, *plan.target.matrix(target))) for target, source in beside(plan).items()}


def _component(layer: str) -> str:
    return layer.partition(".")[0]
