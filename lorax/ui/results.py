"""Shows what has come of a job in the tab, and deletes what a transfer has written."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lorax.catalog import facts
from lorax.files import stamp
from lorax.hosts.base import Host
from lorax.ui import telling, words
from lorax.ui.comparing import chosen_of
from lorax.ui.heatmap import heatmap
from lorax.ui.requests import Reply
from lorax.workflow import Request, Result

# What a page shows on which nothing was done yet, by component.
NOTHING: Reply = {
    "status": "",
    "result": gr.update(visible=False),
    "written": "",
    "tag": "",
    "sent_to": "",
    "last": {},
    "deleting": gr.update(visible=False),
    "analysis": gr.update(visible=False),
    "summary": "",
    "plot": None,
    "table": [],
}


@dataclass(frozen=True)
class Outcome:
    """What has come of a job. ``shown``: updates by component; ``files``: what was written, with marks of their state."""

    shown: Reply
    files: Sequence[Path] = ()
    states: Sequence[Hashable] = ()


def analysed(results: Sequence[Result]) -> Outcome:
    return Outcome(_details(results) | {"status": words.message("Analysed. Nothing was written.", "done")})


def transferred(host: Host, request: Request, results: Sequence[Result]) -> Outcome:
    files = [file for result in results for file in result.files]
    tags = [words.tag(host.tag(r.written), facts(r.written)) for r in results if r.written]
    shown: Reply = {
        "result": gr.update(visible=True),
        "written": telling.written(request, results),
        "tag": " ".join(tags),
        "sent_to": request.target.name,
        "last": {"target": request.target.name},
        "compare_which": chosen_of(host, [r.written for r in results if r.written]),
        "using": gr.update(visible=bool(tags)),
        "status": "" if files else words.message("Nothing was written.", "warning"),
    }
    return Outcome(shown | _details(results), files, [stamp(file) for file in files])


def deleted(outcome: Outcome) -> str:
    """Delete the files that are still as they were written; say so."""
    there = [(file, state) for file, state in zip(outcome.files, outcome.states, strict=True) if file.is_file()]
    changed = [file for file, state in there if stamp(file) != state]
    for file, _ in there:
        if file not in changed:
            file.unlink()
    gone = f"Deleted: {', '.join(file.name for file, _ in there if file not in changed) or 'nothing'}."
    return f"{gone} Changed since, and kept: {', '.join(file.name for file in changed)}." if changed else gone


def _details(results: Sequence[Result]) -> dict[str, Any]:
    records = [record for result in results for record in result.report.records]
    shown = {"summary": words.summary(results), "plot": heatmap(records), "table": words.rows(results)}
    return shown | {"analysis": gr.update(visible=True)}
