"""Draws the README's figures of styles on the far fine-tune and the pruned sibling anew, and tells if they are as committed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lab.eye.figures import figures
from lab.eye.looking import FOLDER, Looker
from lab.paths import RESULTS
from lab.report.claims import verdict
from lab.report.tables import number
from lab.results import Results
from lab.stats import Interval
from lab.variants import BY_NAME, COPY
from lab.zoo import REPORTING
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import REFINE

TARGETS, REDRAWN = (FINETUNE, PRUNED), (BY_NAME, COPY, REFINE)
Of = tuple[str, str]  # target, variant


def redraw(folder: Path, only: str | None = None) -> None:
    """Move, draw and judge what is not stored in ``folder`` yet. What natives show, which are not committed, is taken as stored.

    ``only``: the one target to draw on; None: all.
    """
    results = rerun(folder, Results(RESULTS / FOLDER))
    for target in TARGETS:
        if only not in (None, target):
            continue
        looker = Looker(target, results, briefly=True)
        if not all(map(looker.has_native, REPORTING)):
            sys.exit(f"{RESULTS / FOLDER}: it lacks what LoRAs that were trained on {target} show; run `python -m lab look`.")
        for style in REPORTING:
            looker.see(BASE, style, REDRAWN)


def rerun(folder: Path, committed: Results) -> Results:
    """What was drawn anew, beside what the committed results say of the targets alone and of natives."""
    results = Results(folder / FOLDER)
    results.losses |= {key: value for key, value in committed.losses.items() if not key.source}
    results.reports |= {key: value for key, value in committed.reports.items() if not key.source}
    return results


def compared(folder: Path) -> tuple[list[str], list[float]]:
    """All that it says otherwise, in sentences, and by how much each frontier differs; of the targets that it measured."""
    measured = {file.name.partition(".")[0] for file in folder.glob("*.jsonl*")}
    targets = [target for target in TARGETS if target in measured]
    stored = Results(RESULTS / FOLDER)
    committed, anew = (_frontiers(results, targets) for results in (stored, rerun(folder, stored)))
    said, apart = [], []
    for of in dict.fromkeys((*committed, *anew)):
        name = f"to {of[0]}, {of[1]}, by pictures"
        if of not in anew or of not in committed:
            said.append(f"{name}: not {'drawn again' if of in committed else 'in the committed results'}.")
            continue
        (then, then_less), (now, now_less) = committed[of], anew[of]
        apart.append(abs(now.mean - then.mean))
        if not then.low <= now.mean <= then.high:
            said.append(f"{name}: {number(now)}, committed {number(then)}.")
        if now_less and then_less and verdict(now_less) is not verdict(then_less):
            said.append(f"{name}, less a copy: {number(now_less)}, committed {number(then_less)}.")
    return said, apart


def _frontiers(results: Results, targets: Sequence[str]) -> dict[Of, tuple[Interval, Interval | None]]:
    """The frontier on the styles for reporting and the same less a copy's, if all of them were drawn."""
    found = figures(results, {"reporting": REPORTING}, [(BASE, target) for target in targets])
    whole = [one for one in found if one.variant in REDRAWN and one.styles == REPORTING]
    return {(one.target, one.variant): (one.frontier, one.less_copy) for one in whole if one.frontier}
