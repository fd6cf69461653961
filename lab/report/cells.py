"""The stored results as figures: what a variant recovers on a pair of bases, for one adapter or for all styles of a rank."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.results import ALONE, NATIVE, ORDINARY, STYLE, Key, Results
from lab.stats import Interval, Measured, beyond, change, recovered, recovery
from lab.variants import COPY, STRENGTHS, VARIANTS, asked
from lab.zoo import ADAPTERS, ALL_PAIRS, HEADLINE_PAIRS, HEADLINE_RANK, RATES, STARK, STYLES

Pair = tuple[str, str]
POOLED = "all styles"
HEADLINE_VARIANTS = [variant.name for variant in asked("headline")]
BEHAVIOUR_VARIANTS = [variant.name for variant in asked("behaviour")]
PAIRS = (*HEADLINE_PAIRS, *(pair for pair in ALL_PAIRS if pair not in HEADLINE_PAIRS))


@dataclass(frozen=True)
class Cell:
    """What one figure is of: a variant on a pair, the mean over adapters that all have one rank."""

    source: str  # empty: the native adapters themselves
    target: str
    variant: str
    adapters: tuple[str, ...]

    @property
    def rank(self) -> int:
        return ADAPTERS[self.adapters[0]].rank

    @property
    def is_concept(self) -> bool:
        return ADAPTERS[self.adapters[0]].is_concept

    @property
    def style(self) -> str:
        return ADAPTERS[self.adapters[0]].icons if len(self.adapters) == 1 else POOLED

    def of(self, variant: str) -> Cell:
        return dataclasses.replace(self, variant=variant)

    def of_native(self) -> Cell:
        return Cell("", self.target, NATIVE, self.adapters)

    def key(self, adapter: str, strength: float = 1.0, on: str = STYLE) -> Key:
        return Key(self.target, adapter, self.variant, self.source, strength, on)


class Cells:
    """Figures from ``Results``. None wherever something that a figure needs is not stored (yet)."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._yardsticks: dict[tuple[str, str], bool] = {}
        self._best: dict[Cell, float | None] = {}  # strengths
        self._adapters: dict[tuple[str, str, str], set[str]] = defaultdict(set)  # by source, target, variant
        for key in results.losses:
            if key.strength == 1 and key.on == STYLE:
                self._adapters[key.source, key.target, key.variant].add(key.adapter)

    def pairs(self) -> list[Pair]:
        """The pairs that were measured, those of the headline first."""
        measured = {(source, target) for source, target, _ in self._adapters}
        return [pair for pair in PAIRS if pair in measured]

    def pooled(self, source: str, target: str, variant: str, rank: int) -> Cell | None:
        """All styles of a rank; None until each was measured."""
        names = tuple(
            name for name in self._of(source, target, variant) if ADAPTERS[name].is_style and ADAPTERS[name].rank == rank
        )
        return Cell(source, target, variant, names) if len(names) == len(STYLES) else None

    def headline_pairs(self) -> list[Pair]:
        return [pair for pair in self.pairs() if pair in HEADLINE_PAIRS]

    def headline(self, pair: Pair, rank: int = HEADLINE_RANK) -> list[Cell]:
        """What was measured of the headline's variants, each on all styles of the rank."""
        found = (self.pooled(*pair, variant, rank) for variant in HEADLINE_VARIANTS)
        return [cell for cell in found if cell]

    def single(self, source: str, target: str, variant: str) -> Iterator[Cell]:
        """One for each adapter."""
        return (Cell(source, target, variant, (name,)) for name in self._of(source, target, variant))

    def ranks(self, source: str, target: str, variant: str) -> list[int]:
        return sorted({ADAPTERS[name].rank for name in self._of(source, target, variant) if ADAPTERS[name].is_style})

    def whole_ranks(self) -> list[int]:
        """Those at which a copy of all styles was measured on some pair of the headline."""
        return [rank for rank in RATES if any(self.pooled(*pair, COPY, rank) for pair in self.headline_pairs())]

    def swept(self, source: str, target: str, variant: str) -> Cell | None:
        """All styles of the one rank on which a question was asked; of the smallest, if there are several."""
        ranks = self.ranks(source, target, variant)
        return self.pooled(source, target, variant, ranks[0]) if ranks else None

    def recovery(self, cell: Cell, strength: float = 1.0) -> Interval | None:
        measured = self._measured(cell, strength)
        return recovery(measured) if measured else None

    def recovered(self, cell: Cell, strength: float = 1.0) -> float | None:
        measured = self._measured(cell, strength)
        return recovered(measured) if measured else None

    def specific(self, cell: Cell, strength: float = 1.0) -> Interval | None:
        """The recovery of what is the style's own: 0 is what other styles' native adapters give on its icons, on average.

        They have its native adapter's norm. What they give as well, any further training on icons unlike the base's gives.
        """
        found = []
        for measured, name in zip(self._measured(cell, strength) or (), cell.adapters, strict=False):
            given = self.results.of_others(cell.target, name)
            if not given or not change([((own := beyond(measured, given)).alone, own.native)]).is_below_zero:
                return None
            found.append(own)
        return recovery(found) if found else None

    def teacher(self, cell: Cell) -> Interval | None:
        """What the source itself with its adapter would recover: how much better than the target alone it predicts the style."""
        losses, found = self.results.losses, []
        for name in cell.adapters:
            whose = (Key(cell.target, name, ALONE), Key(cell.target, name, NATIVE), Key(cell.source, name, NATIVE))
            alone, native, its = (losses.get(key) for key in whose)
            if alone is None or native is None or its is None or not self.has_yardstick(cell.target, name):
                return None
            found.append(Measured(alone, native, its))
        return recovery(found)

    def difference(self, cell: Cell, other: str, strength: float = 1.0, its: float = 1.0) -> Interval | None:
        """Of the cell's recovery at ``strength`` to that of another variant at the strength ``its``, on the same icons."""
        measured, minus = self._measured(cell, strength), self._measured(cell.of(other), its)
        if not measured or not minus:
            return None
        return recovery([dataclasses.replace(a, minus=b.moved) for a, b in zip(measured, minus, strict=True)])

    def best_strength(self, cell: Cell) -> float | None:
        """One for a pair, a rank and a variant: that with the best mean over the styles, not the best of each style.

        For a concept too, on which it was thus not chosen. None where a variant was measured at strength 1 only.
        """
        strengths = STRENGTHS if cell.variant == NATIVE else VARIANTS[cell.variant].strengths
        styles = self.pooled(cell.source, cell.target, cell.variant, cell.rank)
        if len(strengths) == 1 or styles is None:
            return None
        if styles not in self._best:  # the same for each adapter of the variant
            found = {strength: self.recovered(styles, strength) for strength in strengths}
            through = None not in found.values()  # else the best of some is not the best of all
            self._best[styles] = max(strengths, key=lambda strength: found[strength] or 0.0) if through else None
        return self._best[styles]

    def harm(self, cell: Cell, than: str = ALONE) -> Interval | None:
        """Relative change of the loss on the target's ordinary captions, at strength 1; to the target alone or to the native."""
        losses = self.results.losses
        pairs = [
            (losses.get(Key(cell.target, name, than, on=ORDINARY)), losses.get(cell.key(name, on=ORDINARY)))
            for name in cell.adapters
        ]
        found = [(before, after) for before, after in pairs if before is not None and after is not None]
        return change(found) if len(found) == len(pairs) else None

    def facts(self, cell: Cell) -> list[dict[str, Any]]:
        """What the transfers' reports say, one for each adapter."""
        found = (self.results.reports.get(cell.key(name)) for name in cell.adapters)
        return [facts for facts in found if facts is not None]

    def size(self, cell: Cell) -> tuple[int, int]:
        """Icons of all adapters, and noise seeds."""
        shapes = [self.results.losses[cell.key(name)].shape for name in cell.adapters]
        return sum(shape[0] for shape in shapes), shapes[0][1]

    def has_yardstick(self, target: str, adapter: str) -> bool:
        """Whether the native adapter helps there. Where it does not, recovery would be divided by nothing, or change its sign."""
        if (target, adapter) not in self._yardsticks:
            alone, native = (self.results.losses.get(Key(target, adapter, variant)) for variant in (ALONE, NATIVE))
            helps = alone is not None and native is not None and change([(alone, native)]).is_below_zero
            self._yardsticks[target, adapter] = helps
        return self._yardsticks[target, adapter]

    def _of(self, source: str, target: str, variant: str) -> list[str]:
        measured = self._adapters.get((source, target, variant), set())
        return [name for name in ADAPTERS if name in measured and name != STARK]

    def _measured(self, cell: Cell, strength: float) -> list[Measured] | None:
        losses = self.results.losses
        found = []
        for name in cell.adapters:
            alone, native = (losses.get(Key(cell.target, name, variant)) for variant in (ALONE, NATIVE))
            moved = losses.get(cell.key(name, strength))
            if alone is None or native is None or moved is None or not self.has_yardstick(cell.target, name):
                return None
            found.append(Measured(alone, native, moved))
        return found


def mean_of(facts: Iterable[dict[str, Any]], name: str) -> float | None:
    values = [fact[name] for fact in facts if fact.get(name) is not None]
    return sum(values) / len(values) if values else None
