"""Shows what has come of a job in the tab, and deletes what a transfer has written."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from lorax.catalog import ListedFile, facts
from lorax.files import stamp
from lorax.hosts.base import Host
from lorax.hosts.jobs import Job
from lorax.transfer import Verdict
from lorax.ui import heatmap, telling, words
from lorax.ui.comparing import SIDE_BY_SIDE, chosen_of
from lorax.ui.requests import Reply
from lorax.workflow import Batch, End, Outcome, Result

# What a page shows on which nothing was done yet, by component.
NOTHING: Reply = {
    "status": "",
    "result": gr.update(visible=False),
    "written": "",
    "tag": "",
    "sent_to": "",
    "originals": "",
    "last": {},
    "deleting": gr.update(visible=False),
    "analysis": gr.update(visible=False),
    "summary": "",
    "plot": "",
    "table": [],
}


@dataclass(frozen=True)
class Shown:
    """What has come of a job.

    ``reply``: updates by component; ``fields``: updates of fields that the user fills in, once; ``files``: what was written, with
    marks of their state.
    """

    reply: Reply
    files: Sequence[Path] = ()
    states: Sequence[Hashable] = ()
    fields: Reply = field(default_factory=dict)


def filled(jobs: Sequence[Job]) -> Reply:
    """Return the updates of fields that the user fills in, too, by those of the jobs that are done."""
    return {name: update for job in jobs if job.state == "done" for name, update in job.outcome.fields.items()}


def analysed(results: Sequence[Result]) -> Shown:
    return Shown(_details(results, ahead=True) | {"status": words.message("Measured. Nothing was written.", "done")})


def moved(host: Host, asked: Batch, outcomes: Sequence[Outcome]) -> Shown:
    """Show what became of each LoRA; the tags are those of the files for the first target.

    Nobody draws with all LoRAs of a large batch at once, so their tags are there to be copied, and are not sent.
    """
    files = [file for one in outcomes if one.result for file in one.result.files]
    target, there = asked.targets[0], sorted((one for one in outcomes if one.path), key=lambda one: one.end is not End.WRITTEN)
    paths = [one.path for one in there if one.path]
    of_first = [(one.adapter.path, one.path) for one in outcomes if one.path and one.target == target]
    tags = [tag(host, path) for _, path in of_first]
    reply: Reply = {
        "result": gr.update(visible=True),
        "written": telling.written(outcomes, asked.options.method),
        "tag": " ".join(tags),
        "sent_to": target.name,
        "originals": " ".join(host.tag(original) for original, _ in of_first),
        "last": {"target": target.name},
        **({"comparison": gr.update(open=True)} if paths else {}),
        "using": gr.update(visible=bool(tags)),
        "send": gr.update(visible=host.has_prompt and len(tags) <= SIDE_BY_SIDE),
        "delete": gr.update(visible=bool(files), value="Delete these files" if len(paths) > 1 else "Delete this file"),
    }
    details = _details([one.result for one in outcomes if one.result])
    return Shown(reply | details, files, [stamp(file) for file in files], {"compare_which": chosen_of(host, paths)})


def tag(host: Host, adapter: Path, strength: float | None = None) -> str:
    """Return the tag with the card's preferred weight, unless another strength is given, and the trigger words."""
    known = facts(adapter)
    return words.tag(host.tag(adapter, strength or known.weight or 1.0), known)


def original_tag(host: Host, adapters: Sequence[ListedFile], verdicts: Sequence[Verdict]) -> str:
    """Return the tags of LoRAs that are used as they are; the target may have a part of one, which lowers its strength."""
    lowered = (one.advised_strength if one.advised_strength != 1 else None for one in verdicts)
    return " ".join(tag(host, adapter.path, strength) for adapter, strength in zip(adapters, lowered, strict=True))


def deleted(shown: Shown) -> str:
    """Delete the files that are still as they were written; say so."""
    there = [(file, state) for file, state in zip(shown.files, shown.states, strict=True) if file.is_file()]
    changed = [file for file, state in there if stamp(file) != state]
    gone = [file for file, _ in there if file not in changed]
    for file in gone:
        file.unlink()
    said = f"Deleted: {telling.listed([file.name for file in gone]) or 'nothing'}."
    return f"{said} Changed since, and kept: {telling.listed([file.name for file in changed])}." if changed else said


def _details(results: Sequence[Result], *, ahead: bool = False) -> Reply:
    if not results:
        return {}
    first = results[:SIDE_BY_SIDE]  # a page with the layers of hundreds would answer nobody
    records = [record for result in first for record in result.report.records]
    left = words.message(f"Of {len(results)} LoRAs, these are the first {len(first)}.") if len(first) < len(results) else ""
    shown = {"summary": left + words.summary(first, ahead=ahead), "plot": heatmap.as_html(records), "table": words.rows(first)}
    return shown | {"analysis": gr.update(visible=True)}
