"""The tables of ``docs/findings.md``, in GitHub's Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from lab.report.cells import BEHAVIOUR_VARIANTS, HEADLINE_VARIANTS, Cell, Cells, Pair, mean_of
from lab.stats import Interval
from lab.variants import AUTO, COPY, LORAX, STRENGTHS
from lab.zoo import ADAPTERS, CROSSING, HEADLINE_RANK, RATES, STYLES, are_related

SHOWN = (COPY, LORAX, AUTO)  # of every ordered pair


def number(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    mean, low, high = (f"{round(value, 2) + 0.0:.2f}" for value in (interval.mean, interval.low, interval.high))  # never -0.00
    return f"{mean} [{low}, {high}]"


def percent(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.1%} [{interval.low:+.1%}, {interval.high:+.1%}]"


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def headline(cells: Cells) -> dict[Pair, str]:
    """Per pair: all styles of the headline's rank, every variant, and the native adapters as what 1 means."""
    at_best = ("best strength", "at that", "less copy at its best")
    head = ("variant", "at strength 1", "specific", "less copy", *at_best, "ordinary loss")
    return {
        pair: markdown(head, [*(_headline_row(cells, cell) for cell in rows), _headline_row(cells, rows[0].of_native())])
        for pair in cells.headline_pairs()
        if (rows := cells.headline(pair))
    }


def _headline_row(cells: Cells, cell: Cell) -> list[str]:
    best, copies = cells.best_strength(cell), cells.best_strength(cell.of(COPY)) if cell.source else None
    return [
        cell.variant,
        number(cells.recovery(cell)),
        number(cells.specific(cell)),
        number(cells.difference(cell, COPY)),
        "-" if best is None else f"{best:g}",
        "-" if best is None else number(cells.recovery(cell, best)),
        "-" if best is None or copies is None else number(cells.difference(cell, COPY, best, copies)),
        percent(cells.harm(cell)),
    ]


def by_style(cells: Cells) -> dict[Pair, str]:
    """Per pair, at strength 1 and the headline's rank: every variant on every style and on the concept."""
    tables = {}
    for pair in cells.headline_pairs():
        singles = {variant: list(cells.single(*pair, variant)) for variant in HEADLINE_VARIANTS}
        found = {
            variant: {cell.style: cells.recovery(cell) for cell in its if cell.rank == HEADLINE_RANK}
            for variant, its in singles.items()
        }
        at_rank = dict.fromkeys(adapter.icons for adapter in ADAPTERS.values() if adapter.rank == HEADLINE_RANK)
        styles = [style for style in at_rank if any(style in row for row in found.values())]
        rows = [[variant, *(number(row.get(style)) for style in styles)] for variant, row in found.items() if row]
        tables[pair] = markdown(("variant", *styles), rows)
    return tables


def by_behaviour(cells: Cells) -> str | None:
    """Per pair: what runs the models beside ``auto`` and ``copy``, at strength 1, and the seconds that a transfer took."""
    head = ("pair", "method", "recovery", "specific", "less copy", "ordinary loss", "native's", *STYLES, "seconds")
    rows = []
    for pair in (*cells.headline_pairs(), CROSSING):
        ran = [cell for name in BEHAVIOUR_VARIANTS if (cell := cells.pooled(*pair, name, HEADLINE_RANK))]
        rivals = [cell for name in (COPY, AUTO) if ran and (cell := cells.pooled(*pair, name, HEADLINE_RANK))]
        for cell in (*rivals, *ran):
            styles = [number(cells.recovery(one)) for one in _apart(cell)]
            recovered = number(cells.recovery(cell)), number(cells.specific(cell))
            whole = *recovered, number(cells.difference(cell, COPY)), percent(cells.harm(cell))
            native = percent(cells.harm(cell.of_native()))
            seconds = f"{mean_of(cells.facts(cell), 'seconds') or 0:.0f}"
            rows.append((" to ".join(pair), cell.variant, *whole, native, *styles, seconds))
        if ran:
            styles = [number(cells.teacher(one)) for one in _apart(ran[0])]
            rows.append((" to ".join(pair), "the source itself", number(cells.teacher(ran[0])), "-", "-", "-", "-", *styles, "-"))
    return markdown(head, rows) if rows else None


def _apart(cell: Cell) -> list[Cell]:
    """Each of its adapters."""
    return [dataclasses.replace(cell, adapters=(name,)) for name in cell.adapters]


def by_rank(cells: Cells) -> dict[Pair, str]:
    """Per pair, at strength 1: every variant on all styles of each rank."""
    tables = {}
    for pair in cells.headline_pairs():
        rows = []
        for variant in HEADLINE_VARIANTS:
            found = [cells.pooled(*pair, variant, rank) for rank in RATES]
            if any(found):
                rows.append([variant, *(number(cells.recovery(cell) if cell else None) for cell in found)])
        tables[pair] = markdown(("variant", *(f"rank {rank}" for rank in RATES)), rows)
    return tables


def by_pair(cells: Cells) -> str:
    """Every ordered pair: what the reports say before anything is run, and what three variants then recover."""
    rows = []
    for pair in cells.pairs():
        found = {variant: cells.pooled(*pair, variant, HEADLINE_RANK) for variant in SHOWN}
        facts = {variant: cells.facts(cell) if cell else [] for variant, cell in found.items()}
        declined = [fact["declined"] for fact in facts[AUTO]]
        rows.append(
            [
                f"{pair[0]} to {pair[1]}",
                "related" if are_related(*pair) else "unrelated",
                plain(mean_of(facts[LORAX], "similarity")),
                plain(mean_of(facts[LORAX], "kept")),
                plain(mean_of(facts[COPY], "coverage")),
                ("yes" if all(declined) else "in part" if any(declined) else "no") if declined else "-",
                *(number(cells.recovery(cell) if cell else None) for cell in found.values()),
            ]
        )
    return markdown(("pair", "", "similarity", "kept by lorax", "coverage", "auto declines", *SHOWN), rows)


def by_overlap(cells: Cells) -> str:
    """Relatives, each style: what the target already has of the adapter, and what ``auto`` makes of it."""
    rows = []
    for pair in (pair for pair in cells.pairs() if are_related(*pair)):
        autos = {cell.style: cell for cell in cells.single(*pair, AUTO) if cell.rank == HEADLINE_RANK and not cell.is_concept}
        for style, cell in autos.items():
            copied = cell.of(COPY)
            strengths = {s: mean for s in STRENGTHS if (mean := cells.recovered(copied, s)) is not None}
            rows.append(
                [
                    f"{pair[0]} to {pair[1]}",
                    style,
                    plain(mean_of(cells.facts(copied), "overlap")),
                    f"{max(strengths, key=lambda s: strengths[s]):g}" if strengths else "-",
                    number(cells.recovery(copied)),
                    number(cells.difference(cell, COPY)),
                ]
            )
    return markdown(("pair", "style", "overlap", "a copy is best at", "copy at 1", "auto less copy"), rows)
