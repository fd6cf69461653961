"""``python -m lab summary``: every figure as a flat record, which is what the report is drawn from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.report.cells import Cell, Cells
from lab.stats import Interval
from lab.variants import COPY, VARIANTS
from lab.zoo import are_related

CHOSEN_BY = "choosing"  # of the styles whose losses are measured: methods and bounds were chosen by these
FIXED, BEST = "1", "best"  # the strength: 1, or the best of the fixed list


def records(cells: Cells) -> list[dict[str, Any]]:
    """In an order that depends on what was measured, not on when. Recoveries and changes are shares, not per cent."""
    return [record for cell in _cells(cells) for record in _records(cells, cell)]


def show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    measured = ("recovery", "specific", "less copy", "harm", "native's")
    table = Table("source", "target", "variant", "style", "rank", "strength", *measured, "n")
    for record in found:
        strength = f"{record['strength']:g}" + (" (best)" if record["at"] == BEST else "")
        shown = (_in_words(record, name) for name in ("recovery", "specific", "less_copy", "harm", "native_harm"))
        size = f"{record['icons']}x{record['seeds']}"
        names = (record[name] for name in ("source", "target", "variant", "style"))
        table.add_row(*names, str(record["rank"]), strength, *shown, size)
    console = Console(width=sys.maxsize, markup=False, emoji=False, highlight=False)  # to look for these takes four seconds
    console.width = console.measure(table).maximum  # no figure is broken, however narrow the terminal
    console.print(table)


def _cells(cells: Cells) -> Iterator[Cell]:
    for source, target in cells.pairs():
        for variant in VARIANTS:
            yield from cells.single(source, target, variant)
            pooled = (cells.pooled(source, target, variant, rank) for rank in cells.ranks(source, target, variant))
            yield from (cell for cell in pooled if cell and len(cell.adapters) > 1)


def _records(cells: Cells, cell: Cell) -> Iterator[dict[str, Any]]:
    """At strength 1 and, where there is a choice, at the best."""
    icons, seeds = cells.size(cell)
    head = {
        "source": cell.source,
        "target": cell.target,
        "related": are_related(cell.source, cell.target),
        "variant": cell.variant,
        "question": VARIANTS[cell.variant].question,
        "style": cell.style,
        "half": CHOSEN_BY,
        "concept": cell.is_concept,
        "rank": cell.rank,
        "adapters": list(cell.adapters),
        "icons": icons,
        "seeds": seeds,
    }
    best = cells.best_strength(cell)
    for at, strength, copies in ((FIXED, 1.0, 1.0), (BEST, best, cells.best_strength(cell.of(COPY)))):
        if strength is None or (recovery := cells.recovery(cell, strength)) is None:
            continue
        less = None if copies is None else cells.difference(cell, COPY, strength, copies)
        is_one = strength == 1.0  # harm is measured at this strength only
        yield {
            **head,
            "at": at,
            "strength": strength,
            **flat("recovery", recovery),
            **flat("specific", cells.specific(cell, strength)),
            **flat("less_copy", less),
            **flat("harm", cells.harm(cell) if is_one else None),
            **flat("native_harm", cells.harm(cell.of_native())),
        }


def flat(name: str, interval: Interval | None) -> dict[str, float | None]:
    """The mean under ``name``, its interval under ``name_low`` and ``name_high``."""
    values = (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)
    return {
        name + end: None if value is None else round(value, 4) for end, value in zip(("", "_low", "_high"), values, strict=True)
    }


def _in_words(record: dict[str, Any], name: str) -> str:
    if record[name] is None:
        return "-"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(record[name + end] for end in ("", "_low", "_high")))
