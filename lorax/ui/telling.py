"""Tells how a job goes and what has come of it, as HTML."""

from collections import Counter
from collections.abc import Collection, Sequence
from html import escape

from lorax.catalog import ListedFile
from lorax.hosts.jobs import Job
from lorax.methods import runs_models
from lorax.options import Options
from lorax.transfer import Verdict
from lorax.transfer.verdict_words import words as verdict_words
from lorax.ui.words import message, short
from lorax.workflow import End, Outcome, Row

LOOKING = "Reading what the files are: {done} of {total}"
NAMED, LINES = 10, 200  # files of a batch that are named in a sentence; LoRAs of one that have a line of their own
ORDER = (End.FAILED, End.DECLINED, End.UNMOVED, End.WRITTEN, End.EXISTED, End.STOPPED)  # of the lines, if there are too many
PENDING = "<div class='lorax-note' data-pending>Looking at the checkpoints ...</div>"
MARKS = {End.WRITTEN: "done", End.EXISTED: "done", End.DECLINED: "warning", End.UNMOVED: "warning", End.FAILED: "error"}


def progress(jobs: Sequence[Job]) -> str:
    """Return a bar for the job that runs, with marks for the browser: what has ended, and how many seconds are left."""
    running = next((job for job in jobs if job.state == "running"), None)
    if running is None:
        return f"<div data-seen='{seen(jobs)}' hidden></div>"
    share = min(1.0, running.done / running.total) if running.total > 0 else 0.0
    left = f" data-left='{running.seconds_left:.0f}'" if running.seconds_left is not None else ""
    if running.stopping:
        now = "Stopping after this step ..."
    elif running.began is None:
        now = "Waiting for its turn: something else is being computed"
    else:
        now = running.text
    return (
        f"<div class='lorax-progress' data-seen='{seen(jobs)}' data-running{left}><div>{escape(running.title)}</div>"
        f"<div class='lorax-bar'><div style='width: {share:.1%}'></div></div><div>{escape(now)}</div></div>"
    )


def seen(jobs: Sequence[Job]) -> str:
    """Return what differs once another job has ended."""
    ended = [job for job in jobs if job.state != "running"]
    return f"{len(ended)}-{ended[-1].id}" if ended else "0"


def ended(job: Job) -> str:
    """Say why a job has come to nothing."""
    return message("Stopped.", "warning") if job.state == "cancelled" else message(job.error, "error")


def looking(wire: str, done: int, total: int, text: str = LOOKING) -> str:
    """Say how far a reading is. As long as this is in view, the page's script asks by the ``wire`` how it goes."""
    said = message(text.format(done=done, total=total)) if total else ""
    return f"<div data-look='{wire}'>{said}</div>"


def library(rows: Sequence[Row], total: int, chosen: Collection[str]) -> str:
    """Return a table with a line for each LoRA, which can be ticked if it can be moved, or its source can be told."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        name, facts = escape(row.adapter.name, quote=True), escape(str(row.record.facts))
        ticked = "".join([" checked" * (row.adapter.name in chosen), " disabled" * (not row.can_move and not row.can_be_told)])
        box = f'<input type=\'checkbox\' data-lora="{name}" aria-label="{name}"{ticked}>'
        said = f"<b>{escape(row.group.words)}</b><br>{escape(row.words)}"
        lines.append(f"<tr><td>{box}</td><td>{name}<div class='lorax-facts'>{facts}</div></td><td>{said}</td></tr>")
    left = message(f"{len(rows)} of {total} are shown.") if total > len(rows) else ""
    return f"<table class='lorax-outcomes'>{''.join(lines)}</table>{left}"


def chosen(adapters: Sequence[ListedFile]) -> str:
    """Say how many LoRAs are chosen, and how large they are together: about so much is written."""
    if not adapters:
        return ""
    size = sum(one.path.stat().st_size for one in adapters if one.path.is_file())
    return message(f"{len(adapters)} chosen, {size / 1e9:.1f} GB together." if size >= 1e9 else f"{len(adapters)} chosen.")


def verdicts(names: Sequence[str], found: Sequence[Verdict]) -> str:
    """Say what is true of each LoRA on the target."""
    said = []
    for name, verdict in zip(names, found, strict=True):
        who = f"<b>{escape(name)}</b> " if len(names) > 1 else ""
        said.append(f"<div class='lorax-verdict'>{who}{escape(verdict_words(verdict))}</div>")
    return "".join(said)


def written(outcomes: Sequence[Outcome], method: str) -> str:
    """Tell what became of each LoRA: what was written, by which method, for which target and how large; or why nothing was."""
    if len(outcomes) == 1:
        return _written(outcomes[0], method)
    rows, left = [], ""
    if len(outcomes) > LINES:
        ends = Counter(one.end for one in outcomes)
        counts = ", ".join(f"{end.value}: {ends[end]}" for end in ORDER if ends[end])
        left = message(f"{len(outcomes)} in all ({counts}), of which {LINES} are shown.")
    for one in sorted(outcomes, key=lambda one: ORDER.index(one.end))[:LINES] if left else outcomes:
        name = escape(one.path.name if one.path else next(iter(one.reason.splitlines()), ""))
        cells = escape(one.adapter.name), escape(short(one.target.name)), escape(one.end.value), name
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{title}</th>" for title in ("LoRA", "For", "What became of it", "File or reason"))
    return f"<table class='lorax-outcomes'><tr>{head}</tr>{''.join(rows)}</table>{left}"


def delete(files: Sequence[str]) -> str:
    """Ask whether these files are to be deleted."""
    return message(f"Delete {listed(files)}? This cannot be undone.", "warning")


def listed(files: Sequence[str]) -> str:
    """Name the files, or of many the first, and say how many others there are."""
    others = len(files) - NAMED
    return ", ".join(files) if others <= 1 else f"{', '.join(files[:NAMED])} and {others} other files"


def loaded(name: str | None, target: str | None) -> str:
    """Say which checkpoint is loaded, if it is not the target."""
    if name is None:
        return ""
    said = "" if name == target else message(f"Loaded now: {name}")
    return f"<div id='lorax_loaded'>{said}</div>"


def guess(name: str | None) -> str:
    """Ask whether the LoRA was trained on this checkpoint."""
    return message(f"The file does not say. Was it trained on {short(name)}? If not, choose above.", "warning") if name else ""


def _written(one: Outcome, method: str) -> str:
    if one.path is None:
        text = "Stopped. Nothing was written." if one.end is End.STOPPED else f"{one.adapter.name}: {one.reason}"
        return message(text, MARKS.get(one.end, "warning"))
    if one.result is None:
        return message(f"Left as it is, since it exists already: {one.path}", "done")
    how = method.capitalize() if runs_models(method) else "Move" if method == Options.method else f"Move ({method})"
    size = f", {one.path.stat().st_size / 1e6:.1f} MB" if one.path.exists() else ""
    facts = f"for {short(one.target.name)}, by {how}{size}"
    done = f"<div class='lorax-done'>Written: <code>{escape(str(one.path))}</code><br>{escape(facts)}</div>"
    return done + (message(one.result.note) if one.result.note else "")
