"""Judges adapters on a target by headers and a sample of layers, as ``auto`` would by all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lorax.low_rank import LowRank
from lorax.methods import BRIDGE, REFINE, WeightPair, auto, pair_cache
from lorax.pairing import Pair
from lorax.reasons import Why
from lorax.subspace import Decomposition
from lorax.transfer import cost
from lorax.transfer.by_layer import SAMPLE, STEP, check_pair, sample, stored
from lorax.transfer.expected import CROSSED, STRANGERS, Cost
from lorax.transfer.forecast import measured
from lorax.transfer.planning import Plan
from lorax.transfer.verdict import Action, Do, Kind, Verdict

FIRST, MORE = 24, 96  # layers that are sampled for the overlap, and if the first tell of one that may count
MAY_COUNT = 0.05  # half of ``auto.LITTLE``: 24 layers of the lab's models tell the overlap to about 0.06, and 96 to about 0.03
FILES = 1.0  # seconds for reading the files, pairing their layers and writing, about
GOLDEN = 0.6180339887  # multiples of it, modulo 1, are spread evenly, however many there are


@dataclass
class Relation:
    """What is known of two bases: the pairs of their layers, and by component the similarities of some, once measured.

    The weights of these layers are cloned, so that no file stays open.
    """

    pairs: dict[str, Pair]
    similarities: dict[str, list[float]] = field(default_factory=dict)
    _probes: dict[str, WeightPair] = field(default_factory=dict, repr=False)
    _chosen: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def similarity(self, plan: Plan) -> list[float]:
        """Return the similarities in the component by which the plan's bases are judged."""
        if plan.component not in self.similarities:
            found = [self._probe(plan, layer).similarity for layer in self._layers(plan)]
            self.similarities[plan.component] = [one for one in found if one is not None]
        return self.similarities[plan.component]

    def projected(self, plan: Plan, names: Sequence[str]) -> int:
        """Return about how many of the adapter's layers ``names`` would be projected, by a few of them."""
        sources = {found.source: name for name in names if (found := plan.pairs[name])}
        chosen = [layer for layer in self._layers(plan) if layer in sources] or _spread(list(sources), SAMPLE)
        count = 0
        for layer in chosen:
            probe = self._probe(plan, layer)
            dW, _ = _delta(plan, sources[layer])
            count += auto.move(dW, probe)[1].kind is Why.PROJECTED_INSIDE
            if (entry := pair_cache.to_entry(probe)) is not None:
                self._probes[layer] = pair_cache.from_entry(entry, probe)  # without what led to the result, which is large
        return round(len(names) * count / len(chosen)) if chosen else 0

    def _layers(self, plan: Plan) -> list[str]:
        """Return the smallest layers of attention in the component, which nearly all adapters change, or of all layers there."""
        if plan.component in self._chosen:
            return self._chosen[plan.component]
        sizes = {}
        for layer, found in self.pairs.items():
            if layer.startswith(f"{plan.component}.") and found.target and found.columns is None:
                m, n = plan.source.matrix(layer)
                if (m, n) == plan.target.matrix(found.target):
                    sizes[layer] = m * n
        chosen = {layer: size for layer, size in sizes.items() if "attn" in layer} or sizes
        smallest = min(chosen.values(), default=0)
        self._chosen[plan.component] = _spread([layer for layer, size in chosen.items() if size == smallest], SAMPLE)
        return self._chosen[plan.component]

    def _probe(self, plan: Plan, layer: str) -> WeightPair:
        if layer not in self._probes:
            found = self.pairs[layer]
            assert found.target
            W_s, W_t = (W.clone() for W in stored(plan, layer, found.target, found.columns))
            check_pair(plan, layer, found.target, (W_s, W_t))
            self._probes[layer] = WeightPair(Decomposition(W_s), Decomposition(W_t), plan.options.rule)
        return self._probes[layer]


def judge(plan: Plan, relation: Relation, closely: bool = True) -> Verdict:
    """Return the verdict on an adapter, without what can be done. Weights are read of a sample of its layers.

    If it is not ``closely``, none of them is, and it stays unknown which share of the adapter the target has already, and whether
    some of it would be projected.
    """
    paired = [name for name, found in plan.pairs.items() if found and found.target]
    counted = Verdict(Kind.WORKS, layers=len(plan.pairs), mismatch=plan.mismatch)
    if not paired:
        return replace(counted, kind=Kind.OTHER_ARCHITECTURE, mismatch=None)
    if not auto.are_related(_median(plan, relation)):
        return replace(counted, kind=Kind.UNRELATED if plan.within_family else Kind.CROSSED, mismatch=None)
    names = [name for name in paired if plan.same_shape(name)]
    overlap = overlap_of(plan, names) if closely else 0.0
    strength = auto.strength(overlap)
    counted = replace(counted, moved=len(names), overlap=overlap, strength=strength, is_pruned=_is_pruned(plan))
    if strength == 0:
        return replace(counted, kind=Kind.PRESENT, mismatch=None)
    moved = {name: found.target for name in names if (found := plan.pairs[name])}
    placed = len(plan.placed(names))
    changed = max(len(plan.differing(moved)), relation.projected(plan, names) if closely else 0)
    if plan.adapter.header is not None:
        kind = Kind.FITS_ITSELF
    elif placed:
        kind = Kind.GAINS
    elif changed or not plan.carries_vectors_by_name:
        kind = Kind.CHANGES
    else:
        kind = Kind.WORKS
    return replace(counted, kind=kind, placed=placed, changed=changed)


def overlap_of(plan: Plan, names: Sequence[str]) -> float:
    """Estimate the share of the adapter that the target has already, by a sample of the layers ``names``."""
    order = sorted(range(len(names)), key=lambda number: number * GOLDEN % 1)
    total = weight = 0.0
    for done, number in enumerate(order[:MORE]):
        if done == FIRST and abs(total) < MAY_COUNT * weight:
            break
        norm, overlap = _overlap(plan, names[number])
        total, weight = total + norm**2 * overlap, weight + norm**2
    return total / weight if weight > 0 else 0.0


def actions(verdict: Verdict, moving: float, running: dict[str, Cost]) -> tuple[Action, ...]:
    """Return what can be done, the recommended action first. ``running``: methods that can run the models here."""
    runs = {method: Action(Do(method), cost.seconds, cost.bytes, cost.device) for method, cost in running.items()}
    refine = tuple(action for method, action in runs.items() if method == REFINE)
    original, move = Action(Do.USE_ORIGINAL), Action(Do.MOVE, moving)
    if verdict.kind in (Kind.UNRELATED, Kind.CROSSED):
        worth = measured(STRANGERS if verdict.kind is Kind.UNRELATED else CROSSED)
        return tuple(runs[method] for method in worth if method in runs)
    return {
        Kind.SAME: (original,),
        Kind.MADE: (original,),
        Kind.WORKS: (original, *refine),
        Kind.GAINS: (move, *refine),
        Kind.CHANGES: (original, move, *refine),
        Kind.FITS_ITSELF: (original, move),
    }.get(verdict.kind, ())


def methods_for(kind: Kind) -> tuple[str, ...]:
    """Return the methods that run the models and may add something."""
    if kind in (Kind.UNRELATED, Kind.CROSSED):
        return REFINE, BRIDGE
    return (REFINE,) if kind in (Kind.WORKS, Kind.GAINS, Kind.CHANGES) else ()


def moving_seconds(plan: Plan) -> float:
    """Estimate the time of a transfer by weights on a machine that does nothing else, with files and with hashing the bases."""
    phases = [cost.moving([plan], alone=True), *cost.hashing_of([plan.source, plan.target])]
    return FILES + sum(phase.seconds for phase in phases)


def _median(plan: Plan, relation: Relation) -> float | None:
    """Return the median similarity that ``auto`` would find: its sample of the adapter's layers, and those of unequal shapes."""
    judged = [name for name, found in plan.pairs.items() if found and found.target and plan.is_judged(name)]
    unequal = sum(not plan.same_shape(name) for name in judged)
    sampled = sample(plan)
    count = sum(name in sampled and plan.same_shape(name) for name in judged)
    known = relation.similarity(plan) if count else []
    return auto.median([*(known[number % len(known)] for number in range(count if known else 0)), *([None] * unequal)])


def _overlap(plan: Plan, name: str) -> tuple[float, float]:
    """Return the norm of the layer's delta, and the share of it that the target has already."""
    found = plan.pairs[name]
    assert found is not None
    assert found.target
    dW, norm = _delta(plan, name)
    W_s, W_t = stored(plan, found.source, found.target, found.columns)
    pair = WeightPair(Decomposition(W_s), Decomposition(W_t), plan.options.rule)
    overlap = pair.overlap(dW, dW.norm(), STEP) or 0.0
    if not math.isfinite(overlap):
        check_pair(plan, found.source, found.target, (W_s, W_t))
    return norm, overlap


def _delta(plan: Plan, name: str) -> tuple[LowRank, float]:
    """Return the layer's delta on the inputs that the bases share, and its norm on all inputs."""
    dW, found = plan.adapter.delta(name, plan.source), plan.pairs[name]
    assert found is not None
    return (found.columns.narrowed(dW) if found.columns else dW), dW.norm()


def _is_pruned(plan: Plan) -> bool:
    """Tell whether one of the bases has fewer layers in the component by which they are judged."""
    counts = [sum(layer.startswith(f"{plan.component}.") for layer in base.layers) for base in (plan.source, plan.target)]
    return plan.within_family and counts[0] != counts[1]


def _spread(layers: list[str], most: int) -> list[str]:
    return layers[:: max(1, -(-len(layers) // most))]
