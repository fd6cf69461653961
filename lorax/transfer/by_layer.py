"""One pass over two bases: every pair of layers that adapters touch is read once, and moved through the method."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lorax.files.cache import Cache
from lorax.low_rank import LowRank
from lorax.methods import METHODS, Bases, pair_cache
from lorax.pairing.shared_inputs import Columns
from lorax.reasons import Reason, Why
from lorax.subspace import SMALL, Decomposition, RankRule
from lorax.transfer.report import LayerRecord

if TYPE_CHECKING:
    from lorax.transfer.planning import Plan

Use = tuple[int, str]  # number of the plan among those of the pass, name of the layer in its adapter
Task = tuple[Use, ...]  # all that touch the same pair of the bases' layers
Weights = tuple[torch.Tensor, torch.Tensor] | None  # of source and target; None where there is no pair
End = tuple[LayerRecord, LowRank | None]
STEP = 7  # of a layer that is copied, every seventh row shows how much of the delta the target has; heads are of 2^n rows
SAMPLE = 5  # large layers that are measured, where a sample is enough


class Pass:
    """``samples``: for each plan the layers that are measured in any case. They go first, and tell what the others need.

    ``survey``: whether the similarity of all the others is measured too, for show.
    """

    def __init__(self, plans: Sequence[Plan], cache: Cache | None, survey: bool = False) -> None:
        self.plans, self.samples, self._survey = plans, [sample(plan) for plan in plans], survey
        much = survey or METHODS[plans[0].options.method].gated  # else too little is measured to look it up
        self._cache = cache if much and cache is not None and cache.is_on_disk else None
        self._written = 0  # bytes, into the cache
        self.ended: list[dict[str, End]] = [{} for _ in plans]

    def deciding(self, number: int) -> Collection[str]:
        """Layers of the plan whose similarity decides, be it on each or on all of them: the same with a survey as without."""
        plan = self.plans[number]
        return plan.pairs if _is_gated(plan) else self.samples[number]

    def tasks(self, sampled: bool) -> list[Task]:
        """Of the layers that are in the samples, or of the others."""
        groups: dict[tuple, list[Use]] = {}
        for number, plan in enumerate(self.plans):
            for name, found in plan.pairs.items():
                if (name in self.samples[number]) is sampled:
                    key = (found.source, found.target) if found and found.target else (number, name, None)
                    groups.setdefault(key, []).append((number, name))
        return [tuple(group) for group in groups.values()]

    def size(self, task: Task) -> int:
        """Bytes: weights as stored, in float32 and at worst one in float64, and eigenvectors with what finding them takes."""
        if (found := self._pair(task)) is None:
            return 0
        plan, (source, target, _) = self.plans[task[0][0]], found
        shapes = plan.source.matrix(source), plan.target.matrix(target)
        return sum(8 * m * n + 32 * min(m, n) ** 2 for m, n in shapes)

    def load(self, task: Task, device: torch.device) -> Weights:
        if (found := self._pair(task)) is None:
            return None
        plan, (source, target, columns) = self.plans[task[0][0]], found
        W_s = plan.source.stored(source).flatten(1)
        W_t = W_s if plan.source is plan.target else plan.target.stored(target).flatten(1)
        if columns is not None:
            W_s, W_t = W_s[:, columns.source].contiguous(), W_t[:, columns.target].contiguous()
        on_device = _on(W_s, device)
        return on_device, on_device if W_t is W_s else _on(W_t, device)

    def work(self, task: Task, weights: Weights) -> list[tuple[Use, End]]:
        if weights is None:
            return [(use, (unmatched(self.plans[use[0]], use[1]), None)) for use in task]
        if self._survey or not all(self._is_settled(use) for use in task):
            self._check_finite(task, weights)
        device = weights[1].device
        deltas = {use: self._delta(use, device).to(device) for use in task}
        rules = {use: _rule(self.plans[use[0]], dW) for use, dW in deltas.items()}
        source = Decomposition(weights[0])
        target = source if weights[1] is weights[0] else Decomposition(weights[1])
        ends = []
        for rule in dict.fromkeys(rules.values()):
            of_rule = [use for use in task if rules[use] == rule]
            with self._kept(Bases(source, target, rule)) as bases:
                ends += [(use, self._move(use, deltas[use], bases)) for use in of_rule]
        if any(end[0].overlap is not None and not math.isfinite(end[0].overlap) for _, end in ends):
            self._check_finite(task, weights)
        return ends

    @contextmanager
    def _kept(self, bases: Bases) -> Iterator[Bases]:
        """With what was kept of them; what is found of them is kept."""
        if self._cache is None or bases.target.p <= SMALL:
            yield bases
            return
        key = pair_cache.key(bases)
        try:
            if (entry := self._cache.get(key, remember=False)) is not None:
                bases = pair_cache.from_entry(entry, bases)
        except (ValueError, KeyError, TypeError):  # damaged, or something else's: it is found anew
            pass
        yield bases
        found = pair_cache.to_entry(bases)
        if found is not None and self._written + found.size <= self._cache.disk_limit:  # else the last would push out the first
            self._written += found.size
            self._cache.put(key, found, remember=False)  # a pass asks for each once, and for more than memory holds

    def _check_finite(self, task: Task, weights: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Raise LoraxError if they are not. It takes longer than a copy, which reads no more than a part of them."""
        plan, found = self.plans[task[0][0]], self._pair(task)
        assert found is not None
        plan.source.check_finite(found[0], weights[0])
        plan.target.check_finite(found[1], weights[1])

    def _delta(self, use: Use, device: torch.device | str) -> LowRank:
        number, name = use
        return self.plans[number].adapter.delta(name, self.plans[number].source, device)

    def _pair(self, task: Task) -> tuple[str, str, Columns | None] | None:
        number, name = task[0]
        found = self.plans[number].pairs[name]
        return (found.source, found.target, found.columns) if found and found.target else None

    def _move(self, use: Use, dW: LowRank, bases: Bases) -> End:
        number, name = use
        plan, settled = self.plans[number], self._is_settled(use)
        found = plan.pairs[name]
        assert found is not None
        method, options = METHODS[plan.options.method], plan.options
        norm = inside = dW.norm()
        if found.columns:
            dW = found.columns.narrowed(dW)
            inside = dW.norm()
        gated = _is_gated(plan)
        similarity = bases.similarity if self._survey or name in self.deciding(number) else None
        record = LayerRecord(
            name,
            "skipped",
            "",
            norm,
            source=found.source,
            target=found.target,
            pairing=found.reason.text,
            similarity=similarity,
            overlap=bases.overlap(dW, inside, STEP if settled else 1),
        )
        if gated and similarity is not None and similarity < options.threshold:
            return record.ended("skipped", f"similarity {similarity:.2f} is below the threshold {options.threshold:g}"), None
        moved, how = (method.settled if settled and method.settled else method.move)(dW, bases)
        if moved is None:
            return record.ended("skipped", how), None
        if gated and similarity is None:
            how += "; similarity is undefined for unequal shapes, so not gated"
        if moved is not dW:
            inside = moved.norm()
        kept, subspace_rank = inside / norm if norm > 0 else 1.0, None if moved is dW else bases.r
        if found.columns and found.target:
            moved = found.columns.widened(moved, plan.target.matrix(found.target)[1])
        moved, error = moved.compressed(plan.limit(name))
        known = {"kept": kept, "subspace_rank": subspace_rank, "rank": moved.rank, "compression_error": error}
        return record.ended("transferred", how, **known), moved.to("cpu")

    def _is_settled(self, use: Use) -> bool:
        """Whether the layers that were measured leave nothing to decide on this one, as none of them was projected."""
        number, name = use
        if METHODS[self.plans[number].options.method].settled is None or name in self.samples[number]:
            return False
        known = [self.ended[number].get(name) for name in self.samples[number]]
        return bool(known) and all(end is not None and end[0].subspace_rank is None for end in known)


def _is_gated(plan: Plan) -> bool:
    """Whether each layer needs a similarity of its own to be moved. It is a little below 0 where it is less than chance."""
    return METHODS[plan.options.method].gated and plan.options.threshold > 0


def unmatched(plan: Plan, name: str) -> LayerRecord:
    """Of a layer of the adapter that has no pair."""
    found = plan.pairs[name]
    reason = (found.reason if found else Reason(Why.NO_LAYER_IN_SOURCE)).text
    known = found is not None or not plan.adapter.layers[name].is_on_base
    norm = plan.adapter.delta(name, plan.source).norm() if known else 0.0
    return LayerRecord(name, "unmatched", reason, norm, source=found.source if found else None)


def sample(plan: Plan) -> frozenset[str]:
    """Layers of which similarity and, by ``auto``, the kept share are measured whether or not the method needs them of each.

    All small ones; and some of the large ones that cost least, of the component by which bases are judged.
    """
    shapes = {name: plan.target.matrix(found.target) for name, found in plan.pairs.items() if found and found.target}
    small = {name for name, shape in shapes.items() if min(shape) <= SMALL}
    sizes = {name: math.prod(shapes[name]) for name in shapes if name not in small and plan.is_judged(name)}
    smallest = min(sizes.values(), default=0)
    cheap = [name for name, size in sizes.items() if size == smallest]
    return frozenset(small.union(cheap[:: max(1, -(-len(cheap) // SAMPLE))]))


def _rule(plan: Plan, dW: LowRank) -> RankRule:
    """The kept rank. An adapter that was trained in the source's leading subspace would lose something where less is kept."""
    own = plan.options.rank == "auto" and plan.adapter.in_subspace
    return RankRule(str(dW.rank)) if own else plan.options.rule


def _on(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    return weight.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else weight
