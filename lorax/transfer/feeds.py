"""Which target layers get a delta by running the models, what feeds them, and of which rank they are."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from lorax.checkpoint.layer_names import component_of
from lorax.low_rank import LowRank
from lorax.options import DENSE_RANK
from lorax.transfer.planning import Plan


@dataclass(frozen=True)
class Feed:
    """The source layer that a target layer follows, and the rank of the delta that it gets."""

    source: str
    rank: int


@dataclass(frozen=True)
class Paired:
    """A layer of the adapter that has a pair, with what is known of its delta."""

    source: str
    target: str
    reason: str  # of the pair
    norm: float


def fed(plan: Plan) -> dict[str, Feed]:
    """By target layer: those that have a pair in the adapter, and those beside them. Told by headers alone.

    Where a part of the adapter has no counterpart, every layer that both models have in that component is fed: what the part does
    reaches them in the source, and can be had from them in the target. Their rank is the commonest one.
    """
    own = {
        pair.target: Feed(pair.source, _rank(plan, pair.target, _known_rank(plan, name)))
        for name, pair in plan.pairs.items()
        if pair and pair.target
    }
    if not own:
        return {}
    usual = statistics.mode(feed.rank for feed in own.values())
    touched = {pair.source for pair in plan.pairs.values() if pair}
    lacking = {component_of(pair.source) for pair in plan.pairs.values() if pair and not pair.target}
    return own | {
        pair.target: Feed(layer, _rank(plan, pair.target, usual))
        for layer, pair in plan.of_bases.items()
        if pair.target and layer not in touched and component_of(layer) in lacking
    }


def _known_rank(plan: Plan, name: str) -> int:
    layer = plan.adapter.layers[name]
    rank = layer.rank if layer.is_low_rank else None
    return DENSE_RANK if rank is None else rank


def _rank(plan: Plan, target: str, rank: int) -> int:
    """As asked for, else ``rank``; within the largest one and what the layer can have."""
    asked = plan.running.lora_rank or rank
    return min(asked, plan.options.max_rank or asked, *plan.target.matrix(target))


def paired(plan: Plan, delta_of: Callable[[str], LowRank]) -> dict[str, Paired]:
    """By name in the adapter, of whose layers ``delta_of`` gives the deltas."""
    return {
        name: Paired(pair.source, pair.target, pair.reason.text, delta_of(name).norm())
        for name, pair in plan.pairs.items()
        if pair and pair.target
    }
