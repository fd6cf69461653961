"""Transfers by weights, in one pass over two bases. Every pair of layers is read once, for all adapters."""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch

from lorax.devices import pick_device
from lorax.low_rank import LowRank
from lorax.methods import WeightPair, pair_cache, weight_method
from lorax.pairing import Columns
from lorax.progress import MOVING
from lorax.reasons import Reason, Why
from lorax.subspace import SMALL, Decomposition, RankRule
from lorax.transfer.concluding import End, concluded
from lorax.transfer.planning import Context, Moved, Plan
from lorax.transfer.report import LayerRecord, Status
from lorax.transfer.spool import Spool
from lorax.transfer.streaming import Stream

Use = tuple[int, str]  # number of the plan among those of the pass, name of the layer in its adapter
Task = tuple[Use, ...]  # all uses of one pair of layers
Weights = tuple[torch.Tensor, torch.Tensor] | None  # of source and target; None if there is no pair
STEP = 7  # every seventh row of a copied layer is compared with the delta; heads have 2^n rows, so all rows of a head come up
SAMPLE = 5  # large layers in a sample


def run(plans: Sequence[Plan], context: Context, *, survey: bool = False, phase: str = MOVING) -> list[Moved]:
    """Move adapters by weights, in one pass, each as if alone. A ``survey`` also measures the similarity of every layer."""
    total, done, meter = sum(len(plan.pairs) for plan in plans), 0, context.meter
    layers = LayerPass(plans, context, survey)
    stream = Stream(pick_device(plans[0].options.device), layers.size, layers.load, layers.work, meter.tick)
    parts = [layers.tasks(sampled) for sampled in (True, False)]
    passed, ahead = 0, max(1, sum(map(layers.size, itertools.chain(*parts))))
    for tasks in parts:
        for task, ends in zip(tasks, stream(tasks), strict=True):
            meter.at(done, total, phase, share=passed / ahead)
            passed, done = passed + layers.size(task), done + len(ends)
            for (number, name), end in ends:
                layers.ended[number][name] = end
    meter.at(total, total, phase)
    return [
        concluded(plan, [layers.ended[number][name] for name in plan.pairs], layers.deciding(number))
        for number, plan in enumerate(plans)
    ]


class LayerPass:
    """The layers of several plans between the same bases.

    ``samples`` holds for each plan the layers that are measured in any case. They are moved first: the others depend on them.
    """

    def __init__(self, plans: Sequence[Plan], context: Context, survey: bool = False) -> None:
        self.plans, self.samples, self._survey = plans, [sample(plan) for plan in plans], survey
        self._method = weight_method(plans[0].options.method)
        all_measured = survey or self._method.gated  # otherwise the cache costs more than it saves
        cache = context.cache
        self._cache = cache if all_measured and cache is not None and cache.is_on_disk else None
        self._written = 0  # bytes written into the cache
        self._spools = Spool.of_each(len(plans))
        self.ended: list[dict[str, End]] = [{} for _ in plans]

    def deciding(self, number: int) -> Collection[str]:
        """Return the layers of the plan whose similarity has a say in the result. They do not depend on ``survey``."""
        plan = self.plans[number]
        return plan.pairs if self._is_gated(plan) else self.samples[number]

    def tasks(self, sampled: bool) -> list[Task]:
        """Return the tasks of the layers in the samples, or of all other layers."""
        groups: dict[tuple, list[Use]] = {}
        for number, plan in enumerate(self.plans):
            for name, found in plan.pairs.items():
                if (name in self.samples[number]) is sampled:
                    key = (found.source, found.target) if found and found.target else (number, name, None)
                    groups.setdefault(key, []).append((number, name))
        return [tuple(group) for group in groups.values()]

    def size(self, task: Task) -> int:
        """Estimate the bytes of a task: the weights as stored, in float32, at worst one in float64, and eigenvectors."""
        if (found := self._pair(task)) is None:
            return 0
        plan, (source, target, _) = self.plans[task[0][0]], found
        shapes = plan.source.matrix(source), plan.target.matrix(target)
        return sum(8 * m * n + 32 * min(m, n) ** 2 for m, n in shapes)

    def load(self, task: Task, device: torch.device) -> Weights:
        """Read the weights of a task."""
        if (found := self._pair(task)) is None:
            return None
        W_s, W_t = stored(self.plans[task[0][0]], *found)
        on_device = _on(W_s, device)
        return on_device, on_device if W_t is W_s else _on(W_t, device)

    def work(self, task: Task, weights: Weights) -> list[tuple[Use, End]]:
        """Move all uses of a task."""
        if weights is None:
            return [(use, (unmatched(self.plans[use[0]], use[1]), None)) for use in task]
        if self._survey or not all(self._is_left_unsampled(use) for use in task):
            self._check_finite(task, weights)
        device = weights[1].device
        source = Decomposition(weights[0])
        target = source if weights[1] is weights[0] else Decomposition(weights[1])
        ends: list[tuple[Use, End]] = []
        pairs: dict[RankRule, WeightPair] = {}
        with ExitStack() as stack:
            for use in task:  # the delta of one adapter at a time
                dW = self._delta(use, device).to(device)
                rule = _rule(self.plans[use[0]], dW)
                if rule not in pairs:
                    pairs[rule] = stack.enter_context(self._cached(WeightPair(source, target, rule)))
                ends.append((use, self._move(use, dW, pairs[rule])))
        if any(end[0].overlap is not None and not math.isfinite(end[0].overlap) for _, end in ends):
            self._check_finite(task, weights)
        return ends

    @contextmanager
    def _cached(self, pair: WeightPair) -> Iterator[WeightPair]:
        """Yield the pair with its cached results, if any; put new results into the cache."""
        if self._cache is None or pair.target.p <= SMALL:
            yield pair
            return
        key = pair_cache.key(pair)
        try:
            if (entry := self._cache.get(key, remember=False)) is not None:
                pair = pair_cache.from_entry(entry, pair)
        except (ValueError, KeyError, TypeError):  # a damaged entry is computed again
            pass
        yield pair
        found = pair_cache.to_entry(pair)
        if found is not None and self._written + found.size <= self._cache.disk_limit:  # else this pass's own entries are removed
            self._written += found.size
            self._cache.put(key, found, remember=False)  # a pass reads each entry once, and they do not all fit into memory

    def _check_finite(self, task: Task, weights: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Raise LoraxError if a weight is not finite. This takes longer than a copy, which reads only a part of the weights."""
        plan, found = self.plans[task[0][0]], self._pair(task)
        assert found is not None
        check_pair(plan, found[0], found[1], weights)

    def _delta(self, use: Use, device: torch.device | str) -> LowRank:
        number, name = use
        return self.plans[number].adapter.delta(name, self.plans[number].source, device)

    def _pair(self, task: Task) -> tuple[str, str, Columns | None] | None:
        number, name = task[0]
        found = self.plans[number].pairs[name]
        return (found.source, found.target, found.columns) if found and found.target else None

    def _move(self, use: Use, dW: LowRank, pair: WeightPair) -> End:
        number, name = use
        plan, unsampled, gated = self.plans[number], self._is_left_unsampled(use), self._is_gated(self.plans[number])
        found = plan.pairs[name]
        assert found is not None
        norm = inside = dW.norm()
        if found.columns:
            dW = found.columns.narrowed(dW)
            inside = dW.norm()
        similarity = pair.similarity if self._survey or name in self.deciding(number) else None
        record = partial(
            LayerRecord,
            name=name,
            norm=norm,
            source=found.source,
            target=found.target,
            pairing=found.reason,
            similarity=similarity,
            overlap=pair.overlap(dW, inside, STEP if unsampled else 1),
        )
        if gated and similarity is not None and similarity < plan.options.threshold:
            details = {"similarity": similarity, "threshold": plan.options.threshold}
            return record(status=Status.SKIPPED, reason=Reason(Why.BELOW_THRESHOLD, details)), None
        move = self._method.move_unsampled if unsampled and self._method.move_unsampled else self._method.move
        moved, reason = move(dW, pair)
        if moved is None:
            return record(status=Status.SKIPPED, reason=reason), None
        if gated and similarity is None:
            reason = reason.but(Reason(Why.NOT_GATED))
        if moved is not dW:
            inside = moved.norm()
        kept, subspace_rank = inside / norm if norm > 0 else 1.0, None if moved is dW else pair.r
        if found.columns and found.target:
            moved = found.columns.widened(moved, plan.target.matrix(found.target)[1])
        moved, error = moved.compressed(plan.limit(name))
        moved_record = record(
            status=Status.TRANSFERRED,
            reason=reason,
            kept=kept,
            subspace_rank=subspace_rank,
            rank=moved.rank,
            compression_error=error,
        )
        return moved_record, self._spools[number].keep(moved)

    def _is_left_unsampled(self, use: Use) -> bool:
        """Tell whether the layer is copied without being measured, since no layer of the sample was projected."""
        number, name = use
        if self._method.move_unsampled is None or name in self.samples[number]:
            return False
        sampled = [self.ended[number].get(name) for name in self.samples[number]]
        return bool(sampled) and all(end is not None and end[0].subspace_rank is None for end in sampled)

    def _is_gated(self, plan: Plan) -> bool:
        """Tell whether a layer's own similarity decides if it is moved. At threshold 0 all are moved, also those below chance."""
        return self._method.gated and plan.options.threshold > 0


def stored(plan: Plan, source: str, target: str, columns: Columns | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of two layers as matrices of the inputs that they share, in their stored dtypes."""
    W_s = plan.source.stored(source).flatten(1)
    W_t = W_s if plan.source is plan.target else plan.target.stored(target).flatten(1)
    if columns is not None:
        W_s, W_t = W_s[:, columns.source].contiguous(), W_t[:, columns.target].contiguous()
    return W_s, W_t


def check_pair(plan: Plan, source: str, target: str, weights: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Raise LoraxError if the weights of one of two layers, in the source and in the target, are not finite."""
    plan.source.check_finite(source, weights[0])
    plan.target.check_finite(target, weights[1])


def unmatched(plan: Plan, name: str) -> LayerRecord:
    """Return the record of a layer of the adapter that has no pair."""
    found = plan.pairs[name]
    reason = found.reason if found else Reason(Why.NO_LAYER_IN_SOURCE)
    has_delta = found is not None or not plan.adapter.layers[name].is_on_base
    norm = plan.adapter.delta(name, plan.source).norm() if has_delta else 0.0
    return LayerRecord(name, Status.UNMATCHED, reason, norm, source=found.source if found else None)


def sample(plan: Plan) -> frozenset[str]:
    """Return the layers that are measured in any case: all small ones, and some of the next larger ones in ``plan.component``."""
    shapes = {name: plan.target.matrix(found.target) for name, found in plan.pairs.items() if found and found.target}
    small = {name for name, shape in shapes.items() if min(shape) <= SMALL}
    sizes = {name: math.prod(shapes[name]) for name in shapes if name not in small and plan.is_judged(name)}
    smallest = min(sizes.values(), default=0)
    cheap = [name for name, size in sizes.items() if size == smallest]
    return frozenset(small.union(cheap[:: max(1, -(-len(cheap) // SAMPLE))]))


def _rule(plan: Plan, dW: LowRank) -> RankRule:
    """Return the rule for the rank of the projection. An adapter that was trained in a subspace keeps its own rank by default."""
    own = plan.options.rank == "auto" and plan.adapter.in_subspace
    return RankRule(str(dW.rank)) if own else plan.options.rule


def _on(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    return weight.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else weight
