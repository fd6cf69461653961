"""What is said of the methods that run the models."""

from __future__ import annotations

from collections.abc import Iterator

from lab.report.cells import BEHAVIOUR_VARIANTS, Cell, Cells, Pair
from lab.report.claims import Verdict, grouped, listed, verdict
from lab.report.prose import called
from lab.report.tables import number
from lab.results import NATIVE
from lab.variants import AUTO, COPY
from lab.zoo import CROSSING, HEADLINE_RANK, are_related
from lorax.methods import REFINE


def sentences(cells: Cells) -> Iterator[str]:
    """Per pair: against each other, against what weights alone give, against the source itself, and what they harm."""
    for pair in (*cells.headline_pairs(), CROSSING):
        found = {name: cell for name in BEHAVIOUR_VARIANTS if (cell := cells.pooled(*pair, name, HEADLINE_RANK))}
        if refined := found.get(REFINE):
            yield from _of_pair(cells, pair, refined, list(found.values()))


def _of_pair(cells: Cells, pair: Pair, refined: Cell, methods: list[Cell]) -> Iterator[str]:
    name = called(pair)
    others = [(f"`{cell.variant}`", cells.difference(refined, cell.variant)) for cell in methods if cell is not refined]
    if are_related(*pair):
        others += [(f"`{rival}`", cells.difference(refined, rival)) for rival in (AUTO, COPY)]
    words = {Verdict.MORE: "more than", Verdict.LESS: "less than", Verdict.SAME: "the same as"}
    groups = grouped(others)
    parts = [f"{words.get(one, 'not told apart from')} {listed(names)}" for one, names in groups.items()]
    yield f"{name}: `{REFINE}` recovers {number(cells.recovery(refined))}; {'; '.join(parts)}."
    if teacher := cells.teacher(refined):
        how = {Verdict.MORE: "better", Verdict.LESS: "worse"}.get(verdict(teacher), "neither better nor worse")
        yield (
            f"{name}: the source with its LoRA, from which the target learns, predicts the style {how} than the target alone: "
            f"it would recover {number(teacher)}."
        )
    harm = grouped(((f"`{cell.variant}`", cells.harm(cell, NATIVE)) for cell in methods), figures=False)
    words = {Verdict.MORE: "worse", Verdict.LESS: "better"}
    parts = [f"{words.get(one, one.value)}: {listed(names)}" for one, names in harm.items()]
    yield f"{name}, on ordinary captions, compared with the native LoRA: {'; '.join(parts)}."
