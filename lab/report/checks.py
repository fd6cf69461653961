"""What issue 3 asks of ``auto``, answered from the figures; every violation is named."""

from __future__ import annotations

from collections.abc import Iterator

from lab.report.cells import Cell, Cells
from lab.report.claims import Verdict, verdict
from lab.report.prose import METHODS, called
from lab.report.tables import number
from lab.variants import AUTO, COPY, LORAX, VARIANTS
from lab.zoo import are_related

HARM = -0.02  # a recovery below it is harm
RIVALS = [name for name in METHODS if VARIANTS[name].options.method in (COPY, LORAX)]


def not_below(cells: Cells, *, at_best: bool) -> str:
    """Whether auto is significantly below any form of copy or lorax; which implies: below the best of them."""
    below, count = [], 0
    for cell in _autos(cells):
        its = cells.best_strength(cell) if at_best else 1.0
        for rival in RIVALS:
            strength = cells.best_strength(cell.of(rival)) if at_best else 1.0
            difference = None if its is None or strength is None else cells.difference(cell, rival, its, strength)
            count += difference is not None
            if difference and verdict(difference) is Verdict.LESS:
                below.append(f"{_name(cell)}, to `{rival}`: {number(difference)}")
    when = "each at its best strength" if at_best else "at strength 1"
    claim = f"`auto` is never significantly below the best of `copy` and `lorax` on any pair, {when}"
    return _answer(claim, below, count, "comparisons")


def declines(cells: Cells) -> str:
    """Whether auto refuses every unrelated pair."""
    unrelated = [cell for cell in _autos(cells) if not are_related(cell.source, cell.target)]
    found = [(cell, facts) for cell in unrelated for facts in cells.facts(cell)]
    moved = [f"{_name(cell)}, coverage {facts['coverage']:.0%}" for cell, facts in found if not facts["declined"]]
    return _answer("`auto` declines on unrelated bases", moved, len(found), "transfers")


def moves(cells: Cells) -> str:
    """Whether auto refuses no related pair."""
    found = [(cell, facts) for cell in _autos(cells) if are_related(cell.source, cell.target) for facts in cells.facts(cell)]
    declined = list(dict.fromkeys(_name(cell) for cell, facts in found if facts["declined"]))
    return _answer("`auto` never declines on related bases", declined, len(found), "transfers")


def harmless(cells: Cells) -> str:
    """Whether auto recovers less than ``HARM`` on an unrelated pair."""
    unrelated = [cell for cell in _autos(cells) if not are_related(cell.source, cell.target)]
    found = [(cell, recovery) for cell in unrelated if (recovery := cells.recovery(cell))]
    harmed = [f"{_name(cell)}: {number(recovery)}" for cell, recovery in found if recovery.mean < HARM]
    return _answer(f"`auto` never recovers less than {HARM} on unrelated bases", harmed, len(found), "figures")


def everything(cells: Cells) -> list[str]:
    return [not_below(cells, at_best=False), not_below(cells, at_best=True), declines(cells), moves(cells), harmless(cells)]


def _autos(cells: Cells) -> Iterator[Cell]:
    """On every pair: all styles of each rank, and the concept."""
    for pair in cells.pairs():
        pooled = (cells.pooled(*pair, AUTO, rank) for rank in cells.ranks(*pair, AUTO))
        yield from (cell for cell in pooled if cell)
        yield from (cell for cell in cells.single(*pair, AUTO) if cell.is_concept)


def _name(cell: Cell) -> str:
    return f"{called((cell.source, cell.target))}, {cell.style}, rank {cell.rank}"


def _answer(claim: str, violations: list[str], count: int, what: str) -> str:
    if not count:
        return f"Not measured: {claim}."
    if not violations:
        return f"Holds in all {count} {what}: {claim}."
    return f"**Violated** in {len(violations)} of {count} {what}: {claim}. {'; '.join(violations)}."
