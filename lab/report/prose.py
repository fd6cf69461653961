"""What the figures say, in sentences. Each is made by the rules of ``claims``, so that no rerun leaves one that is not true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab.report.cells import BEHAVIOUR_VARIANTS, Cell, Cells, Pair
from lab.report.claims import Verdict, apart, effect, grouped, listed, verdict
from lab.report.tables import number, percent
from lab.results import NATIVE
from lab.variants import AUTO, BY_NAME, COPY, RANDOM, WRONG, asked
from lab.zoo import CROSSING, HEADLINE_RANK, RATES, are_related

CONTROLS = (BY_NAME, RANDOM, WRONG)  # what a method is measured against, and nobody would choose
METHODS = [one.name for one in asked("headline") if one.name not in CONTROLS]


def called(pair: Pair) -> str:
    return f"{pair[0]} to {pair[1]}"


def of_pair(cells: Cells, pair: Pair) -> Iterator[str]:
    """All styles at the headline's rank."""
    found = {cell.variant: cell for cell in cells.headline(pair)}
    if (copy := found.get(COPY)) is None:
        return
    methods = [cell for name, cell in found.items() if name in METHODS]
    if recovery := cells.recovery(copy):
        yield f"At strength 1 a copy {effect(recovery)}."
    yield from _against_copy(cells, "At strength 1", methods)
    if BY_NAME in found and (by_weights := cells.difference(copy, BY_NAME)):
        words = {Verdict.MORE: "recovers more than", Verdict.LESS: "recovers less than", Verdict.SAME: "is the same as"}
        how = words.get(verdict(by_weights), "shows no measured difference to")
        yield f"A copy to the matched layers {how} a copy by name ({number(by_weights)})."
    yield from _of_strength(cells, copy)
    yield from _against_copy(cells, "With each at its best strength", methods, at_best=True)
    yield from _harm(cells, copy, methods)
    for control in (RANDOM, WRONG):
        if control in found and (recovery := cells.recovery(found[control])):
            yield f"Control, {control}: {effect(recovery)}."


def concept(cells: Cells) -> Iterator[str]:
    """What becomes of a subject instead of a style, at the headline's rank."""
    for pair in cells.headline_pairs():
        found = [
            cell for method in METHODS for cell in cells.single(*pair, method) if cell.is_concept and cell.rank == HEADLINE_RANK
        ]
        if (copy := next((cell for cell in found if cell.variant == COPY), None)) is None:
            continue
        if recovery := cells.recovery(copy):
            yield f"{called(pair)}: a copy {effect(recovery)}."
            yield from _against_copy(cells, f"{called(pair)}, at strength 1", found)
        else:
            yield f"{called(pair)}: nothing can be said, since no gain of the native adapter itself was measured."


def leaders(cells: Cells, methods: Sequence[Cell], *, at_best: bool = False) -> list[str]:
    """The method with the highest mean, and all that are not significantly below it; at strength 1 or each at its best."""
    strengths = {cell.variant: cells.best_strength(cell) if at_best else 1.0 for cell in methods}
    means = {c.variant: mean for c in methods if (s := strengths[c.variant]) and (mean := cells.recovered(c, s)) is not None}
    if not means:
        return []
    first = max(means, key=lambda name: means[name])
    others = [(c, s) for c in methods if c.variant in means and c.variant != first and (s := strengths[c.variant])]
    differences = {c.variant: cells.difference(c, first, s, strengths[first] or 1.0) for c, s in others}
    return [first, *(name for name, one in differences.items() if one is None or verdict(one) is not Verdict.LESS)]


def best_methods(cells: Cells) -> Iterator[str]:
    """For each headline pair, what to use."""
    for pair in cells.headline_pairs():
        methods = {cell.variant: cell for cell in cells.headline(pair) if cell.variant in METHODS}
        for at_best, when in ((False, "at strength 1"), (True, "with each at its best strength")):
            if not (leading := leaders(cells, list(methods.values()), at_best=at_best)):
                continue
            first, *joint = leading
            strength = (cells.best_strength(methods[first]) if at_best else None) or 1.0
            recovery = cells.recovery(methods[first], strength)
            if recovery and verdict(recovery) is not Verdict.MORE:
                yield f"{called(pair)}, {when}: no method: the best, `{first}`, has no measured gain ({number(recovery)})."
                continue
            figure = number(recovery) + (f" at {strength:g}" if at_best else "")
            others = "every other method that was measured so recovers less"
            told = f"not told apart from it: {_quoted(joint)}" if joint else others
            yield f"{called(pair)}, {when}: the highest mean has `{first}` ({figure}); {told}."


def against_copy(cells: Cells) -> Iterator[str]:
    """For each method, on which pairs it is worth more or less than a copy."""
    for method in METHODS:
        found = {pair: cells.pooled(*pair, method, HEADLINE_RANK) for pair in cells.pairs()}
        groups = grouped((called(pair), cells.difference(cell, COPY)) for pair, cell in found.items() if cell)
        if method != COPY and groups:
            yield f"`{method}` against a copy: {_by_verdict(groups, {one: one.value for one in Verdict})}."


def arrivals(cells: Cells) -> Iterator[str]:
    """For each method, between which relatives and between which strangers anything arrives."""
    words = {
        Verdict.MORE: "arrives",
        Verdict.LESS: "harms",
        Verdict.SAME: "nothing changes",
        Verdict.UNKNOWN: "no effect measured",
    }
    for related, who in ((True, "relatives"), (False, "strangers")):
        pairs = [pair for pair in cells.pairs() if are_related(*pair) is related]
        for method in METHODS:
            found = [(called(pair), cells.pooled(*pair, method, HEADLINE_RANK)) for pair in pairs]
            if groups := grouped(((name, cells.recovery(cell)) for name, cell in found if cell), figures=False):
                yield f"Between {who}, `{method}`: {_by_verdict(groups, words)}."


def specifics(cells: Cells) -> Iterator[str]:
    """For each pair, which methods bring more or less of the style's own than other styles' native adapters do."""
    words = {
        Verdict.MORE: "more than another style brings",
        Verdict.LESS: "less than that",
        Verdict.SAME: "the same",
        Verdict.UNKNOWN: "no difference measured",
    }
    for pair in (*cells.headline_pairs(), CROSSING):
        found = [(name, cells.pooled(*pair, name, HEADLINE_RANK)) for name in (*METHODS, *BEHAVIOUR_VARIANTS)]
        if groups := grouped((f"`{name}`", cells.specific(cell)) for name, cell in found if cell):
            yield f"{called(pair)}: {_by_verdict(groups, words)}."


def over_ranks(cells: Cells) -> Iterator[str]:
    """The largest rank against the smallest, for a copy and for auto."""
    small, large = min(RATES), max(RATES)
    for pair in cells.headline_pairs():
        for variant in (COPY, AUTO):
            found = [cells.pooled(*pair, variant, rank) for rank in (large, small)]
            figures = [figure for cell in found if cell and (figure := cells.recovery(cell))]
            if len(figures) == 2:
                words = {Verdict.MORE: "recovers more than", Verdict.LESS: "recovers less than"}
                how = words.get(apart(*figures), "is not told apart from")
                values = " and ".join(number(figure) for figure in figures)
                yield f"{called(pair)}, `{variant}`: rank {large} {how} rank {small} ({values})."


def over_question(cells: Cells, question: str) -> Iterator[str]:
    """Which of a method's swept variants differ from the method as the headline has it, on the same adapters."""
    for pair in cells.headline_pairs():
        for method in METHODS:
            found = [cell for one in asked(question, method) if (cell := cells.swept(*pair, one.name))]
            shown = ((cell.variant.removeprefix(f"{method} "), cells.difference(cell, method)) for cell in found)
            if groups := grouped(shown, figures=False):
                parts = [f"{one.value}: {listed(its)}" for one, its in groups.items()]
                yield f"{called(pair)}, against `{method}` with its usual rank and no gate: {'; '.join(parts)}."


def _against_copy(cells: Cells, when: str, methods: Sequence[Cell], *, at_best: bool = False) -> Iterator[str]:
    differences = []
    for cell in methods:
        its, copies = (cells.best_strength(one) if at_best else 1.0 for one in (cell, cell.of(COPY)))
        if cell.variant != COPY and its and copies:
            differences.append((f"`{cell.variant}`", cells.difference(cell, COPY, its, copies)))
    words = {
        Verdict.MORE: "these recover more than a copy",
        Verdict.LESS: "these recover less than a copy",
        Verdict.SAME: "these are the same as a copy",
        Verdict.UNKNOWN: "no difference to a copy was measured of",
    }
    return (f"{when}, {words[one]}: {listed(names)}." for one, names in grouped(differences).items())


def _of_strength(cells: Cells, copy: Cell) -> Iterator[str]:
    best = cells.best_strength(copy)
    if best == 1:
        yield "A copy is best at strength 1."
    elif best and (difference := cells.difference(copy, COPY, best, 1.0)):
        how = "more than" if verdict(difference) is Verdict.MORE else "no measured difference to"
        figure = number(cells.recovery(copy, best))
        yield f"A copy is best at strength {best:g} ({figure}): {how} at strength 1 ({number(difference)})."


def _harm(cells: Cells, copy: Cell, methods: Sequence[Cell]) -> Iterator[str]:
    if native := cells.harm(copy.of_native()):
        words = {Verdict.MORE: "worse", Verdict.LESS: "better"}
        groups = grouped(((f"`{cell.variant}`", cells.harm(cell, NATIVE)) for cell in methods), figures=False)
        parts = [f"{words.get(one, one.value)}: {listed(names)}" for one, names in groups.items()]
        compared = f" Compared with that, {'; '.join(parts)}." if parts else ""
        yield f"On ordinary captions the native LoRA changes the loss by {percent(native)}.{compared}"


def _by_verdict(groups: dict[Verdict, list[str]], words: dict[Verdict, str]) -> str:
    return "; ".join(f"{words[one]} on {listed(names)}" for one, names in groups.items())


def _quoted(names: Sequence[str]) -> str:
    return listed([f"`{name}`" for name in names])
