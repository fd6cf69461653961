"""The plots of ``docs/findings.md``: one for each question, as SVGs that are equal where the figures are equal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.report.cells import Cell, Cells, Pair, mean_of
from lab.results import NATIVE
from lab.stats import Interval
from lab.variants import (
    AUTO,
    BY_NAME,
    CHANGE,
    COPY,
    FROM_BRIDGE,
    HIGHER,
    LORAX,
    PROJECTING,
    RANKS,
    STEPS,
    STRENGTHS,
    THRESHOLDS,
    VARIANTS,
    asked,
)
from lab.zoo import CROSSING, HEADLINE_RANK, RATES, are_related
from lorax.methods import BRIDGE, REFINE

STYLE = {
    "svg.hashsalt": "lorax",  # else ids are drawn anew every time
    "svg.fonttype": "none",  # small, and text that can be searched
    "font.sans-serif": ["DejaVu Sans"],  # with which the text is laid out; each label names the whole list
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",  # GitHub's dark theme lets transparent pictures show black text on black
    "legend.frameon": False,
}
FLOOR = -1.0  # how much below it a harm lies is of no interest, and would flatten all that is
LINES = (COPY, AUTO, *PROJECTING, BY_NAME, NATIVE, REFINE, FROM_BRIDGE, CHANGE)
COLOURS = dict(zip(LINES, plt.color_sequences["tab10"], strict=True)) | {HIGHER: "gold"}
Points = list[tuple[str, Interval]]  # label on the horizontal axis, figure
Drawn = Callable[[Pair, str], Points]  # of a pair and a line in its panel


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    path.write_text(in_hundredths(drawn.getvalue()), encoding="utf-8")


def in_hundredths(svg: str) -> str:
    """Round the coordinates of a picture to hundredths of a point, which nobody sees: a tenth of its size."""

    def rounded(number: re.Match[str]) -> str:
        return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

    return re.sub(r' (?:d|x|y|points)="[^"]*"', lambda found: re.sub(r"-?\d+\.\d{3,}", rounded, found[0]), svg)


def against_adapter_rank(cells: Cells) -> Figure | None:
    """On all styles of each rank, at strength 1; None as long as there is but one."""
    if len(cells.whole_ranks()) < 2:
        return None

    def points(pair: Pair, variant: str) -> Points:
        found = ((str(rank), cells.pooled(*pair, variant, rank)) for rank in RATES)
        return _measured(cells, found)

    return _panels(cells, (BY_NAME, COPY, AUTO, *PROJECTING), points, [str(rank) for rank in RATES], "rank of the LoRA")


def against_kept_rank(cells: Cells) -> Figure | None:
    """How many directions a projection keeps."""

    def points(pair: Pair, method: str) -> Points:
        if method == COPY:
            return _level(cells, pair, "rank", RANKS)
        names = {one.options.rank: one.name for one in asked("rank", method)}
        return _measured(cells, ((rank, cells.swept(*pair, names[rank])) for rank in RANKS))

    return _panels(cells, (COPY, *PROJECTING), points, RANKS, "kept rank")


def against_threshold(cells: Cells) -> Figure | None:
    """Which layers a gate by similarity leaves alone."""
    shown = [f"{threshold:g}" for threshold in (0, *THRESHOLDS)]

    def points(pair: Pair, method: str) -> Points:
        if method == COPY:
            return _level(cells, pair, "threshold", shown)
        names = {f"{one.options.threshold:g}": one.name for one in asked("threshold", method)}
        swept = [(threshold, cells.swept(*pair, name)) for threshold, name in names.items()]
        ranks = {cell.rank for _, cell in swept if cell}
        open_gate = [("0", cells.pooled(*pair, method, rank)) for rank in ranks]
        return _measured(cells, [*open_gate, *swept])

    return _panels(cells, (COPY, *PROJECTING), points, shown, "similarity threshold")


def against_strength(cells: Cells) -> Figure | None:
    """At the headline's rank; of the native adapters too."""

    def points(pair: Pair, variant: str) -> Points:
        cell = cells.pooled("" if variant == NATIVE else pair[0], pair[1], variant, HEADLINE_RANK)
        found = ((f"{strength:g}", cells.recovery(cell, strength) if cell else None) for strength in STRENGTHS)
        return [(label, figure) for label, figure in found if figure]

    shown = [f"{strength:g}" for strength in STRENGTHS]
    return _panels(cells, (COPY, AUTO, *PROJECTING, NATIVE), points, shown, "strength")


def against_steps(cells: Cells) -> Figure | None:
    """What trains the target, from each start, after so many steps; 0 is the start."""
    starts = {REFINE: AUTO, HIGHER: AUTO, FROM_BRIDGE: BRIDGE, CHANGE: AUTO}
    shown = ["0", *map(str, STEPS)]

    def points(pair: Pair, variant: str) -> Points:
        first = starts[variant] if are_related(*pair) or variant == FROM_BRIDGE else BRIDGE if variant == CHANGE else AUTO
        found = [("0", cells.pooled(*pair, first, HEADLINE_RANK))]
        found += [(str(step), cells.pooled(*pair, VARIANTS[variant].at(step), HEADLINE_RANK)) for step in STEPS]
        return _measured(cells, found) if any(cell for _, cell in found[1:]) else []

    return _panels(cells, tuple(starts), points, shown, "steps", (*cells.headline_pairs(), CROSSING))


def against_similarity(cells: Cells) -> Figure | None:
    """Every ordered pair: what is known of it before a transfer against what copy and lorax recover."""
    facts = (("similarity", LORAX, "median similarity of paired layers"), ("kept", LORAX, "share that lorax keeps"))
    questions = (*facts, ("coverage", COPY, "share in layers that have a match"))
    if not (pairs := cells.pairs()):
        return None
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(questions), figsize=(10, 3.4), sharey=True, layout="constrained")
        for axes, (name, of, label) in zip(panels, questions, strict=True):
            for variant in (COPY, LORAX):
                for pair in pairs:
                    asked, cell = (cells.pooled(*pair, one, HEADLINE_RANK) for one in (of, variant))
                    known = mean_of(cells.facts(asked), name) if asked else None
                    if known is not None and cell and (found := cells.recovery(cell)):
                        marker = "o" if are_related(*pair) else "x"
                        _point(axes, known, found, marker, COLOURS[variant])
            axes.set_xlabel(label)
            axes.axhline(0, color="grey", linewidth=0.6)
        for variant in (COPY, LORAX):
            panels[0].plot([], [], "o", color=COLOURS[variant], label=f"{variant}, related")
            panels[0].plot([], [], "x", color=COLOURS[variant], label=f"{variant}, unrelated")
        panels[0].set_ylabel("recovery")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
        return figure


def predicted_against_measured(predicted: Sequence[float], measured: Sequence[float], labels: Sequence[str]) -> Figure:
    """Recoveries of equal length; a label groups points and gets a colour."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
        for label in dict.fromkeys(labels):
            rows = [i for i, one in enumerate(labels) if one == label]
            axes.plot([predicted[i] for i in rows], [measured[i] for i in rows], "o", markersize=3, label=label)
        axes.axline((0, 0), slope=1, color="grey", linewidth=0.6)
        axes.set_xlabel("predicted recovery")
        axes.set_ylabel("measured recovery")
        axes.legend(fontsize=7)
        return figure


def _panels(
    cells: Cells, lines: Sequence[str], points: Drawn, ticks: Sequence[str], label: str, pairs: Sequence[Pair] = ()
) -> Figure | None:
    """A panel for each pair, of the headline's by default, with a line for each variant; None where nothing was measured."""
    found = {pair: {line: points(pair, line) for line in lines} for pair in pairs or cells.headline_pairs()}
    drawn = {pair: its for pair, its in found.items() if any(its.values())}
    if not drawn:
        return None
    with plt.rc_context(STYLE):
        size = {"figsize": (1 + 2.7 * len(drawn), 3.2), "layout": "constrained"}
        figure, panels = plt.subplots(1, len(drawn), sharey=True, squeeze=False, **size)
        for axes, (pair, its) in zip(panels[0], drawn.items(), strict=True):
            axes.set_title(f"{pair[0]} to {pair[1]}")
            axes.axhline(0, color="grey", linewidth=0.6)
            for line, its_points in its.items():
                _line(axes, its_points, ticks, line)
            axes.set_xticks(range(len(ticks)), ticks)
            if max(map(len, ticks)) > 4:
                plt.setp(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
            axes.set_xlabel(label)
        panels[0][0].set_ylim(bottom=max(FLOOR, panels[0][0].get_ylim()[0]))
        panels[0][0].set_ylabel("recovery")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(lines), fontsize=8)
        return figure


def _line(axes: Axes, points: Points, ticks: Sequence[str], label: str) -> None:
    x = [ticks.index(tick) for tick, _ in points]
    axes.plot(x, [found.mean for _, found in points], marker=".", color=COLOURS[label], label=label)
    axes.fill_between(x, [p.low for _, p in points], [p.high for _, p in points], color=COLOURS[label], alpha=0.12, linewidth=0)


def _point(axes: Axes, x: float, found: Interval, marker: str, colour: str) -> None:
    error = [[found.mean - found.low], [found.high - found.mean]]
    axes.errorbar([x], [found.mean], yerr=error, fmt=marker, color=colour, markersize=4, elinewidth=0.7)


def _level(cells: Cells, pair: Pair, question: str, ticks: Sequence[str]) -> Points:
    """The copy's recovery, on the adapters of a question, as a level line: nothing that is asked changes it."""
    for variant in asked(question):
        if (cell := cells.swept(*pair, variant.name)) and (found := cells.recovery(cell.of(COPY))):
            return [(tick, found) for tick in ticks]
    return []


def _measured(cells: Cells, found: Iterable[tuple[str, Cell | None]]) -> Points:
    return [(label, figure) for label, cell in found if cell and (figure := cells.recovery(cell))]
