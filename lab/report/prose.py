"""What the figures say, in sentences. Each is made by the rules of ``claims``, so that no rerun leaves one that is not true."""

from __future__ import annotations

from collections.abc import Iterator

from lab.report.cells import Cell, Cells, Pair
from lab.report.claims import Verdict, apart, effect, grouped, listed, verdict
from lab.report.tables import number, percent
from lab.stats import Interval
from lab.variants import AUTO, BY_NAME, COPY, RANDOM, VARIANTS, WRONG
from lab.zoo import ADAPTERS, HEADLINE_RANK, RATES, are_related

CONTROLS = (BY_NAME, RANDOM, WRONG)
METHODS = [name for name, one in VARIANTS.items() if one.question == "headline" and name not in CONTROLS]


def called(pair: Pair) -> str:
    return f"{pair[0]} to {pair[1]}"


def of_pair(cells: Cells, pair: Pair) -> list[str]:
    """All styles at the headline's rank."""
    found = {cell.variant: cell for cell in cells.headline(pair)}
    if COPY not in found:
        return []
    copy, methods = found[COPY], [cell for name, cell in found.items() if name in METHODS]
    sentences = [f"At strength 1 a copy {effect(recovery)}." for recovery in [cells.recovery(copy)] if recovery]
    sentences += _against_copy("At strength 1", [(cell, cells.difference(cell, COPY)) for cell in methods])
    if leading := leaders(cells, methods):
        first, *joint = leading
        told = f"; not told apart from it: {', '.join(joint)}" if joint else "; every other method recovers less"
        sentences.append(f"The highest mean at strength 1 has {first} with {number(cells.recovery(found[first]))}{told}.")
    if BY_NAME in found and (by_weights := cells.difference(copy, BY_NAME)):
        words = {Verdict.MORE: "recovers more than", Verdict.LESS: "recovers less than", Verdict.SAME: "is the same as"}
        how = words.get(verdict(by_weights), "shows no measured difference to")
        sentences.append(f"A copy to the layers matched by `pairing=auto` {how} a copy by name ({number(by_weights)}).")
    sentences += _at_best(cells, methods)
    sentences += _harm(cells, copy, methods)
    for control in (RANDOM, WRONG):
        if control in found and (recovery := cells.recovery(found[control])):
            sentences.append(f"Control, {control}: {effect(recovery)}.")
    return sentences


def leaders(cells: Cells, methods: list[Cell]) -> list[str]:
    """The method with the highest mean at strength 1, and all that are not significantly below it."""
    means = {cell.variant: mean for cell in methods if (mean := cells.recovered(cell)) is not None}
    if not means:
        return []
    first = max(means, key=lambda name: means[name])
    differences = {cell.variant: cells.difference(cell, first) for cell in methods if cell.variant != first}
    return [first, *(name for name, one in differences.items() if one and verdict(one) is not Verdict.LESS)]


def over_pairs(cells: Cells) -> list[str]:
    """For each method, where it is worth more or less than a copy; then what arrives between strangers."""
    sentences = []
    for method in METHODS:
        found = {pair: cells.pooled(*pair, method, HEADLINE_RANK) for pair in cells.pairs()}
        differences = [(called(pair), cells.difference(cell, COPY)) for pair, cell in found.items() if cell]
        if method != COPY and (groups := grouped(differences)):
            parts = [f"{one.value} on {listed(names)}" for one, names in groups.items()]
            sentences.append(f"`{method}` against a copy, both at strength 1: {'; '.join(parts)}.")
    for related, who in ((True, "relatives"), (False, "strangers")):
        pairs = [pair for pair in cells.pairs() if are_related(*pair) is related]
        for method in METHODS:
            its = [(called(pair), cells.pooled(*pair, method, HEADLINE_RANK)) for pair in pairs]
            groups = grouped((name, cells.recovery(cell)) for name, cell in its if cell)
            words = {Verdict.MORE: "arrives", Verdict.LESS: "does harm", Verdict.SAME: "changes nothing"}
            parts = [f"{words.get(one, 'no effect measured')} on {listed(names)}" for one, names in groups.items()]
            if parts:
                sentences.append(f"Between {who}, `{method}` at strength 1: {'; '.join(parts)}.")
    return sentences


def over_ranks(cells: Cells) -> list[str]:
    """The largest rank against the smallest, for a copy and for auto."""
    small, large = min(RATES), max(RATES)
    sentences = []
    for pair in cells.headline_pairs():
        for variant in (COPY, AUTO):
            found = [cells.pooled(*pair, variant, rank) for rank in (large, small)]
            figures = [cells.recovery(cell) for cell in found if cell]
            if len(figures) == 2 and figures[0] and figures[1]:
                words = {Verdict.MORE: "recovers more than", Verdict.LESS: "recovers less than"}
                how = words.get(apart(figures[0], figures[1]), "is not told apart from")
                values = f"{number(figures[0])} and {number(figures[1])}"
                sentences.append(f"{called(pair)}, `{variant}`: rank {large} {how} rank {small} ({values}).")
    return sentences


def over_question(cells: Cells, question: str) -> list[str]:
    """Of the swept variants of each method, which differ from the method as the headline has it: same rank, same styles."""
    sentences = []
    for pair in cells.headline_pairs():
        for method in METHODS:
            names = [name for name, one in VARIANTS.items() if one.question == question and one.options.method == method]
            found = [cell for name in names for rank in cells.ranks(*pair, name) if (cell := cells.pooled(*pair, name, rank))]
            shown = ((cell.variant.removeprefix(f"{method} "), cells.difference(cell, method)) for cell in found)
            if groups := grouped(shown):
                parts = [f"{one.value}: {', '.join(its)}" for one, its in groups.items()]
                sentences.append(f"{called(pair)}, against `{method}` with its usual rank and no gate: {'; '.join(parts)}.")
    return sentences


def _against_copy(when: str, differences: list[tuple[Cell, Interval | None]]) -> Iterator[str]:
    groups = grouped((cell.variant, one) for cell, one in differences if cell.variant != COPY)
    words = {
        Verdict.MORE: "these recover more than a copy",
        Verdict.LESS: "these recover less than a copy",
        Verdict.SAME: "these are the same as a copy",
        Verdict.UNKNOWN: "no difference to a copy was measured of",
    }
    return (f"{when}, {words[one]}: {', '.join(names)}." for one, names in groups.items())


def _at_best(cells: Cells, methods: list[Cell]) -> Iterator[str]:
    """What the strength is worth: a copy at its best against 1, and the methods each at their best."""
    best = {cell.variant: cells.best_strength(cell) for cell in methods}
    copy = next(cell for cell in methods if cell.variant == COPY)
    if (its := best[COPY]) is None:
        return
    if its != 1 and (difference := cells.difference(copy, COPY, its, 1.0)):
        how = "more than" if verdict(difference) is Verdict.MORE else "no measured difference to"
        figure = number(cells.recovery(copy, its))
        yield f"A copy is best at strength {its:g} with {figure}: {how} strength 1 ({number(difference)})."
    elif its == 1:
        yield "A copy is best at strength 1."
    at_best = [(cell, cells.difference(cell, COPY, strength, its)) for cell in methods if (strength := best[cell.variant])]
    yield from _against_copy("With each at its best strength", at_best)


def _harm(cells: Cells, copy: Cell, methods: list[Cell]) -> Iterator[str]:
    shown = [("the native LoRA", copy.of_native()), *((cell.variant, cell) for cell in methods)]
    parts = [f"{name} {percent(harm)}" for name, cell in shown if (harm := cells.harm(cell))]
    if parts:
        yield f"Change of the loss on ordinary captions at strength 1: {', '.join(parts)}."


def concept(cells: Cells) -> list[str]:
    """What becomes of a subject instead of a style."""
    sentences = []
    for pair in cells.headline_pairs():
        for method in METHODS:
            for cell in cells.single(*pair, method):
                if cell.is_concept and (recovery := cells.recovery(cell)):
                    against = cells.difference(cell, COPY) if method != COPY else None
                    words = f"; against a copy: {verdict(against).value} ({number(against)})" if against else ""
                    sentences.append(f"{called(pair)}, {ADAPTERS[cell.adapters[0]].icons}, `{method}` {effect(recovery)}{words}.")
    return sentences
