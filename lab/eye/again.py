"""Draws what the README says of relatives anew, and tells whether that says what the committed results say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.eye.figures import figures
from lab.eye.looking import FOLDER, Looker
from lab.paths import RESULTS
from lab.report.claims import verdict
from lab.report.tables import number
from lab.results import Results
from lab.stats import Interval
from lab.variants import COPY
from lab.zoo import REPORTING
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import REFINE

TARGETS, REDRAWN = (FINETUNE, PRUNED), (COPY, REFINE)


def redraw(folder: Path, only: str | None = None) -> None:
    """Move, draw and judge what is not stored in ``folder`` yet. What natives show, which are not committed, is taken as stored.

    ``only``: the one target to draw on; None: all.
    """
    results = rerun(folder)
    for target in TARGETS:
        if only not in (None, target):
            continue
        looker = Looker(target, results)
        for style in REPORTING:
            looker.see(BASE, style, REDRAWN)


def rerun(folder: Path) -> Results:
    """What was drawn anew, beside what the committed results say of the targets alone and of natives."""
    results, committed = Results(folder / FOLDER), Results(RESULTS / FOLDER)
    results.losses |= {key: value for key, value in committed.losses.items() if not key.source}
    results.reports |= {key: value for key, value in committed.reports.items() if not key.source}
    return results


def compared(folder: Path) -> tuple[list[str], list[float]]:
    """All that it says otherwise, in sentences, and by how much each frontier differs."""
    before, now = (_told(results) for results in (Results(RESULTS / FOLDER), rerun(folder)))
    said, apart = [], []
    for of, ours in now.items():
        name, theirs = f"to {of[0]}, {of[1]}, by pictures", before[of]
        apart.append(abs(ours.frontier.mean - theirs.frontier.mean))
        if not theirs.frontier.low <= ours.frontier.mean <= theirs.frontier.high:
            said.append(f"{name}: {number(ours.frontier)}, committed {number(theirs.frontier)}.")
        if ours.less_copy and theirs.less_copy and verdict(ours.less_copy) is not verdict(theirs.less_copy):
            said.append(f"{name}, less a copy: {number(ours.less_copy)}, committed {number(theirs.less_copy)}.")
    return said, apart


@dataclass(frozen=True)
class _Told:
    frontier: Interval
    less_copy: Interval | None


def _told(results: Results) -> dict[tuple[str, str], _Told]:
    """On the styles for reporting, by target and variant, if all of them were drawn."""
    found = [one for one in figures(results, {"reporting": REPORTING}) if one.variant in REDRAWN and one.styles == REPORTING]
    return {(one.target, one.variant): _Told(one.frontier, one.less_copy) for one in found if one.frontier}
