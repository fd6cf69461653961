"""Whether a rerun of the headline says what the committed results say."""

from __future__ import annotations

from collections.abc import Iterator

from lab.report.cells import Cell, Cells, Pair
from lab.report.claims import verdict
from lab.report.prose import METHODS, called, leaders
from lab.report.tables import number
from lab.stats import Interval
from lab.variants import COPY
from lab.zoo import HEADLINE_RANK

ROUNDING = 0.001  # a figure without noise, as of what auto declined, has an interval without width


def differences(committed: Cells, rerun: Cells) -> list[str]:
    """All that a rerun says otherwise, in sentences; of the targets that it measured."""
    if not (pairs := rerun.headline_pairs()):
        return ["The rerun has measured nothing."]
    targets = {target for _, target in pairs}
    found = []
    for pair in (pair for pair in committed.headline_pairs() if pair[1] in targets):
        ours = _headline(committed, pair)
        again = set(_headline(rerun, pair))
        found += [f"{_name(cell)}: not measured again." for cell in ours if cell not in again]
        found += [one for cell in ours if cell in again for one in _of_cell(committed, rerun, cell)]
        found += _best_method(committed, rerun, pair)
    missing = [pair for pair in pairs if pair not in committed.headline_pairs()]
    return [*found, *(f"{called(pair)}: not in the committed results." for pair in missing)]


def distances(committed: Cells, rerun: Cells) -> list[float]:
    """Tell by how much each recovery at strength 1 differs that both have measured."""
    cells = [cell for pair in rerun.headline_pairs() for cell in _headline(rerun, pair)]
    found = [(committed.recovery(cell), rerun.recovery(cell)) for cell in cells]
    return [abs(then.mean - now.mean) for then, now in found if then and now]


def _of_cell(committed: Cells, rerun: Cells, cell: Cell) -> Iterator[str]:
    """Its figures at strength 1 and at the best strength that the committed results found, and the sign to a copy."""
    best, copies = committed.best_strength(cell), committed.best_strength(cell.of(COPY))
    for strength, its in dict.fromkeys(((1.0, 1.0), (best, copies))):
        if strength is None or its is None:
            continue
        then, now = committed.recovery(cell, strength), rerun.recovery(cell, strength)
        if then and (now is None or not _within(now.mean, then)):
            yield f"{_name(cell)} at strength {strength:g}: {number(now)}, committed {number(then)}."
        signs = [verdict(one) if (one := cells.difference(cell, COPY, strength, its)) else None for cells in (committed, rerun)]
        if signs[0] is not signs[1]:
            words = [sign.value if sign else "not measured" for sign in signs]
            yield f"{_name(cell)} at strength {strength:g}, against a copy: {words[1]}, committed: {words[0]}."


def _best_method(committed: Cells, rerun: Cells, pair: Pair) -> Iterator[str]:
    """The first of either must be among those that the other does not tell apart from its own first."""
    then, now = (leaders(cells, [c for c in cells.headline(pair) if c.variant in METHODS]) for cells in (committed, rerun))
    if not then or not now or now[0] not in then or then[0] not in now:
        yield f"{called(pair)}: the best method is {', '.join(now) or 'not measured'}, committed: {', '.join(then)}."


def _headline(cells: Cells, pair: Pair) -> list[Cell]:
    """All styles and each style, at the headline's rank."""
    pooled = cells.headline(pair)
    singles = [one for cell in pooled for one in cells.single(*pair, cell.variant) if one.rank == HEADLINE_RANK]
    return [*pooled, *(one for one in singles if not one.is_concept)]


def _within(value: float, interval: Interval) -> bool:
    return interval.low - ROUNDING <= value <= interval.high + ROUNDING


def _name(cell: Cell) -> str:
    return f"{called((cell.source, cell.target))}, {cell.variant}, {cell.style}"
