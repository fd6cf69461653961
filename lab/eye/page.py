"""``python -m lab seen``: docs/seen.md with plots and grids, and what the README quotes and lorax tells of it."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib import color_sequences
from matplotlib.figure import Figure as Plot

from lab.eye.costs import beside_bridge, beside_refine, costs, on_answers
from lab.eye.figures import HALVES, Figure, figures
from lab.eye.ideas import LOST, REFINES, TRIED
from lab.eye.judge import CERTAIN, accuracies
from lab.eye.kinds import of_groups, of_kinds
from lab.eye.looking import FOLDER, PAIRS, PROMPTS
from lab.eye.readers import SAME, Readers
from lab.eye.readme import what_to_expect
from lab.eye.sources import of_sources
from lab.eye.told import write
from lab.paths import DOCS, ROOT
from lab.pictures import SEEDS
from lab.quotes import quote
from lab.report.claims import listed
from lab.report.plots import save
from lab.report.tables import markdown, number, percent
from lab.results import NATIVE, Results
from lab.stats import Interval
from lab.variants import COPY
from lab.zoo import CHARACTERS, CHOOSING, KIND_STYLES, REPORTING, SHOWN
from lorax.methods import REFINE

MORE, LESS, ALIKE = "More than", "Less than", "Not told apart from"
RIVALS = {  # of refine: what is set side by side, and what the other is called
    COPY: ("a copy and what `refine` makes of it", "the copy"),
    NATIVE: ("the native LoRA and what `refine` makes of the source's", "the native"),
}
PAGE, TEMPLATE = DOCS / "seen.md", Path(__file__).with_name("seen.md.in")


def seen(options: argparse.Namespace) -> None:
    """Write docs/seen.md, what the README quotes of it and what lorax tells of it, or print the figures as JSON."""
    results = Results(options.results / FOLDER)
    found, grouped = figures(results), of_groups(results)
    if options.json:
        print(json.dumps([_record(one) for one in (*found, *grouped)], indent=1))
        return
    if not found:
        sys.exit(f"{options.results / FOLDER}: nothing is stored there; `python -m lab look` draws and judges.")
    parts = {
        "accuracies": _accuracies("style", SHOWN),
        "of_characters": _accuracies("character", CHARACTERS),
        "kind_styles": listed(KIND_STYLES),
        "kinds": of_kinds(grouped),
        "readers": _readers(options.results),
        "grids": _grids(SHOWN),
        "grids_of_characters": _grids(CHARACTERS),
        "tables": "\n\n".join(_tables([one for one in found if one.variant not in TRIED])),
        "sources": of_sources(found, results),
        "costs": costs(found, results),
        "on_answers": on_answers(found, results),
        "beside_refine": beside_refine(found, results),
        "beside_bridge": beside_bridge(found, results),
        "half": _halves(),
        "pairs": str(len({(one.source, one.target) for one in found})),
        "lost": listed([f"`{name}`" for name in LOST]),
        "pictures": f"{len(PROMPTS)} subjects by {SEEDS} seeds",
    }
    PAGE.write_text(TEMPLATE.read_text(encoding="utf-8").format(**parts), encoding="utf-8")
    quote(ROOT / "README.md", "seen", what_to_expect([*found, *grouped]))
    write(results)
    print(PAGE)


def _record(one: Figure) -> dict[str, object]:
    intervals = {name: getattr(one, name) for name in ("frontier", "less_copy", "style", "recovery", "harm")}
    return {
        **{name: getattr(one, name) for name in ("source", "target", "variant", "group", "styles")},
        **{name: vars(value) if value else None for name, value in intervals.items()},
        "specific": one.specific,
        "at": [{"strength": strength, "style": style, "content": content} for strength, (style, content) in one.at.items()],
    }


def _halves() -> str:
    return f"for choosing {', '.join(CHOOSING)}; for reporting {', '.join(REPORTING)}"


def _accuracies(kind: str, classes: tuple[str, ...]) -> str:
    found = accuracies(classes)
    rows = [(name, f"{one.style:.2f}", f"{one.subject_in_five:.2f}", f"{one.subject:.2f}") for name, one in found.items()]
    table = markdown((kind, f"{kind} found", "subject among the first five", "subject first"), rows)
    wanted = f"Wanted were {CERTAIN['style']} for the {kind} and {CERTAIN['subject_in_five']} for the subject among five."
    short = [style for style, one in found.items() if any(getattr(one, what) < least for what, least in CERTAIN.items())]
    missed = f" Below that: {listed(short)}. What is said of these is less sure." if short else ""
    return f"{table}\n\n{wanted}{missed}"


def _grids(styles: Sequence[str]) -> str:
    """The grids that ``python -m lab grids`` has drawn, of styles or characters in their order."""
    drawn = [PAGE.with_suffix("") / f"{target}-{style}.webp" for style in styles for _, target in PAIRS]
    files = [path for path in drawn if path.is_file()]
    return "\n\n".join(f"![{path.stem.replace('-', ': ')}]({PAGE.stem}/{path.name})" for path in files)


def _readers(results: Path) -> str:
    """Tell what readers say, target by target."""
    asked = {pair: readers for pair in PAIRS if (readers := Readers(results, pair[1])).said}
    told = [f"### {source} to {target}, by readers\n\n{_said(readers)}" for (source, target), readers in asked.items()]
    return "\n\n".join(told) or "No reader has looked yet."


def _said(readers: Readers) -> str:
    """Tell how often readers agree with the measure and with each other, and what they say of refine beside its rival."""
    rows = [
        (what, name, *(f"{other}: {found.right} of {found.answers}" for other, found in others.items()))
        for what, name, others in readers.agreements()
    ]
    agreed = markdown(("asked of", "reader", *("agrees with" for _ in rows[0][2:])), rows)
    rival, who = RIVALS[readers.rival]
    told = [(*of, *(str(found[one]) for one in (REFINE, readers.rival, SAME))) for *of, found in readers.of_refine()]
    of_refine = markdown(("asked of", "styles", "reader", "refine has more", f"{who} has more", "the same"), told)
    even = f"{len(readers.even)} of the pairs are {rival}, with as many subjects. Which has more?"
    named = [f"{who} was right {count} times" for who, count in readers.named().items()]
    asked = f"\n\nAsked which style a pair is about, {listed(named)}, of {len(readers.pairs)}." if named else ""
    return f"{agreed}{asked}\n\n{even}\n\n{of_refine}"


def _tables(found: Sequence[Figure]) -> list[str]:
    head = ("variant", "frontier", "less copy", "style at the native's content", "recovery", "specific", "ordinary loss")
    tables = []
    for source, target in PAIRS:
        for half in HALVES:
            own = [one for one in found if (one.source, one.target, one.group) == (source, target, half)]
            if own:
                name = f"{source}-to-{target}-{half}.svg"
                _plot(own, PAGE.with_suffix("") / name)
                title = f"### {source} to {target}, {half}: {', '.join(own[0].styles)}"
                plot = f"![Style against content]({PAGE.stem}/{name})"
                parts = (title, plot, _against_a_copy(own), markdown(head, map(_row, own)))
                tables.append("\n\n".join(part for part in parts if part))
    return tables


def _against_a_copy(own: Sequence[Figure]) -> str:
    """Tell in a sentence or more which variants are worth more by pictures than a copy at its best strength, and which less."""
    kinds: dict[str, list[str]] = {MORE: [], LESS: [], ALIKE: []}
    for one in own:
        if one.less_copy:
            kinds[_beside_a_copy(one.less_copy)].append(f"`{one.variant}`")
    return " ".join(f"{kind} a copy along its whole curve: {', '.join(names)}." for kind, names in kinds.items() if names)


def _beside_a_copy(less_copy: Interval) -> str:
    if less_copy.is_above_zero:
        return MORE
    return LESS if less_copy.is_below_zero else ALIKE


def _row(one: Figure) -> tuple[str, ...]:
    return (
        one.variant,
        number(one.frontier),
        number(one.less_copy),
        number(one.style),
        number(one.recovery),
        "-" if one.specific is None else f"{one.specific:.2f}",
        percent(one.harm),
    )


def _plot(found: Sequence[Figure], path: Path) -> None:
    """Style against content, a line for each variant, from weak to strong."""
    plot = Plot(figsize=(5.2, 4))
    axes = plot.subplots()
    for one, colour in zip(found, itertools.cycle(color_sequences["tab10"])):
        contents, styles = ([point[part] for point in one.at.values()] for part in (1, 0))
        line = {"lw": 2.5 if one.variant == NATIVE else 1.2, "ls": "--" if one.variant in REFINES else "-", "color": colour}
        axes.plot(contents, styles, marker="o", ms=3, label=one.variant, **line)
        for strength, (style, content) in one.at.items():
            if strength == 1:
                axes.plot(content, style, "o", ms=7, mfc="none", mec="black")
    axes.set(xlabel="content kept", ylabel="style arrives", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=7)
    save(plot, path)
