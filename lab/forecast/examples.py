"""What the forecast learns from: transfers whose recovery was measured, with what was known of each before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lab.report.cells import Cell, Cells
from lab.variants import STRENGTHS
from lab.zoo import HEADLINE_RANK, STYLES, are_related


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
        """What is true, not what is alike by measure."""
        return are_related(self.source, self.target)


def examples(cells: Cells, variant: str) -> list[Example]:
    """Every pair and style at the headline's rank, as far as it was measured."""
    return [
        Example(*pair, cell.style, measured, _known(cells, cell), cell)
        for pair in cells.pairs()
        for cell in cells.single(*pair, variant)
        if cell.rank == HEADLINE_RANK and cell.style in STYLES
        if (measured := cells.recovered(cell)) is not None and cells.facts(cell)
    ]


def probed_strength(found: Mapping[str, Any]) -> float | None:
    """Of the list: at which the target draws best what the source draws with the adapter. None where nothing was moved."""
    losses = found.get("target_adapted")
    return min(STRENGTHS, key=lambda strength: losses[str(strength)]) if losses else None


def _known(cells: Cells, cell: Cell) -> dict[str, float]:
    facts, found = cells.facts(cell)[0], cells.results.probes.get(cell.key(cell.adapters[0]))
    known = {name: facts[name] for name in ("coverage", "similarity", "lowest", "kept", "overlap") if facts.get(name) is not None}
    return known | dict(_of_probe(found) if found else ())


def _of_probe(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A transfer that moves nothing changes nothing: it agrees with the source's change as little as no change does.

    ``r2`` is cut off at -1: how far off a change is beyond that tells of its size alone. ``gain`` is, on pictures that the source
    draws with the adapter, (target alone - target adapted) / (target alone - source adapted), cut off at -1 and 1; 0 where the
    target alone is no worse than the source with the adapter, so that there is nothing to gain.

    ``supply`` is log10 of (source alone - source adapted) / (target alone - source adapted), what the adapter brings at home by
    what the target lacks, cut off at -2 and 2: an adapter is too weak below 0, and overshoots far above it.
    """
    alone, losses = found["target_alone"], found.get("target_adapted")
    best = probed_strength(found)
    possible = alone - found["source_adapted"]

    def gain(strength: float) -> float:
        won = alone - losses[str(strength)] if losses else 0.0
        return min(max(won / possible, -1.0), 1.0) if possible > 0 else 0.0

    yield "r2", max(found.get("r2", 0.0), -1.0)
    yield "cosine", found.get("cosine", 0.0)
    yield "gain", gain(1.0)
    yield "best gain", gain(best) if best else 0.0
    brought = max(found["source_alone"] - found["source_adapted"], 0.0)
    yield "supply", math.log10(min(max(brought / possible, 0.01), 100)) if possible > 0 else 2.0
    if best:
        yield "probed strength", best
