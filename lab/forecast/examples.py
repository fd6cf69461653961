"""What the forecast learns from: transfers whose recovery was measured, with what was known of each before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lab.report.cells import Cell, Cells
from lab.variants import STRENGTHS
from lab.zoo import HEADLINE_RANK, STYLES
from lorax.transfer.forecast import are_alike


@dataclass(frozen=True)
class Example:
    """``known``: the report's figures, and those of the probe where it was run."""

    source: str
    target: str
    style: str
    measured: float  # recovery at strength 1
    known: Mapping[str, float]
    cell: Cell

    @property
    def related(self) -> bool:
        """By the measure by which a forecast is chosen."""
        return are_alike(self.known.get("similarity"))


def examples(cells: Cells, variant: str) -> list[Example]:
    """Every pair and style at the headline's rank, as far as it was measured.

    Without what ``auto`` declined: that nothing is moved is no forecast.
    """
    return [
        Example(*pair, cell.style, measured, _known(cells, cell), cell)
        for pair in cells.pairs()
        for cell in cells.single(*pair, variant)
        if cell.rank == HEADLINE_RANK and cell.style in STYLES
        if (measured := cells.recovered(cell)) is not None
        if any(facts["coverage"] > 0 for facts in cells.facts(cell))
    ]


def probed_strength(found: Mapping[str, Any]) -> float:
    """Of the list: at which the target draws best what the source draws with the adapter."""
    return min(STRENGTHS, key=lambda strength: found["target_adapted"][str(strength)])


def _known(cells: Cells, cell: Cell) -> dict[str, float]:
    facts, found = cells.facts(cell)[0], cells.results.probes.get(cell.key(cell.adapters[0]))
    known = {name: facts[name] for name in ("coverage", "similarity", "lowest", "kept", "overlap") if facts.get(name) is not None}
    return known | dict(_of_probe(found) if found else ())


def _of_probe(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """``r2`` is cut off at -1: how far off a change is beyond that tells of its size alone. ``gain`` is, on pictures that the
    source draws with the adapter, (target alone - target adapted) / (target alone - source adapted), cut off at -1 and 1; 0
    where the target alone is no worse than the source with the adapter, so that there is nothing to gain.

    ``supply`` is log10 of (source alone - source adapted) / (target alone - source adapted), what the adapter brings at home by
    what the target lacks, cut off at -2 and 2: an adapter is too weak below 0, and overshoots far above it.
    """
    alone, losses = found["target_alone"], found["target_adapted"]
    best = probed_strength(found)
    possible = alone - found["source_adapted"]

    def gain(strength: float) -> float:
        return min(max((alone - losses[str(strength)]) / possible, -1.0), 1.0) if possible > 0 else 0.0

    yield "r2", max(found["r2"], -1.0)
    yield "cosine", found["cosine"]
    yield "gain", gain(1.0)
    yield "best gain", gain(best)
    brought = max(found["source_alone"] - found["source_adapted"], 0.0)
    yield "supply", math.log10(min(max(brought / possible, 0.01), 100)) if possible > 0 else 2.0
    yield "probed strength", best
