"""Tells how a job goes and what has come of it, as HTML."""

import time
from collections.abc import Sequence
from html import escape

from lorax.hosts.jobs import Job
from lorax.methods import runs_models
from lorax.transfer.wording import refusal
from lorax.ui.words import message, short
from lorax.workflow import Request, Result

STOPPED = {"transfer": "Stopped. Nothing was written.", "compare": "Stopped. Nothing was changed."}


def progress(jobs: Sequence[Job]) -> str:
    """Return a bar for the job that runs, with a mark for the browser of what has ended."""
    running = next((job for job in jobs if job.state == "running"), None)
    if running is None:
        return f"<div data-seen='{seen(jobs)}' hidden></div>"
    share = min(1.0, running.done / running.total) if running.total > 0 else 0.0
    if running.stopping:
        now = "Stopping after this step ..."
    elif running.began is None:
        now = "Waiting for its turn: something else is being computed"
    else:
        now = ", ".join(filter(None, (running.text, _left(running, share))))
    return (
        f"<div class='lorax-progress' data-seen='{seen(jobs)}' data-running><div>{escape(running.title)}</div>"
        f"<div class='lorax-bar'><div style='width: {share:.1%}'></div></div><div>{escape(now)}</div></div>"
    )


def seen(jobs: Sequence[Job]) -> str:
    """Return what differs once another job has ended."""
    ended = [job for job in jobs if job.state != "running"]
    return f"{len(ended)}-{ended[-1].id}" if ended else "0"


def ended(job: Job) -> str:
    """Say why a job has come to nothing."""
    if job.state == "cancelled":
        return message(STOPPED.get(job.kind, "Stopped."), "warning")
    return message(job.error, "error")


def written(request: Request, results: Sequence[Result]) -> str:
    """Tell for each LoRA what was written, by which method, for which target and how large; or why nothing was."""
    return "".join(_written(request, result) for result in results)


def delete(files: Sequence[str]) -> str:
    """Ask whether these files are to be deleted."""
    return message(f"Delete {', '.join(files)}? This cannot be undone.", "warning")


def loaded(name: str | None, target: str | None) -> str:
    """Say which checkpoint is loaded, if it is not the target; the page's script reads it, too."""
    if name is None:
        return ""
    said = "" if name == target else message(f"Loaded now: {name}")
    return f"<div id='lorax_loaded' data-loaded='{escape(name, quote=True)}'>{said}</div>"


def guess(name: str | None) -> str:
    """Ask whether the LoRAs were trained on this checkpoint."""
    return message(f"Not known from the file: was it trained on {short(name)}?", "warning") if name else ""


def _written(request: Request, result: Result) -> str:
    if result.written is None:
        why = refusal(result.report) if result.report.declined else "no layer could be moved, so nothing was written."
        return message(f"{result.adapter.name}: {why}", "warning")
    method = request.options.method
    how = "by running both checkpoints" if runs_models(method) else "by the weights"
    size = result.written.stat().st_size / 1e6 if result.written.exists() else 0.0
    facts = f"for {short(request.target.name)}, {how} ({method}), {size:.1f} MB" if size else "deleted since"
    done = f"<div class='lorax-done'>Written: <code>{escape(str(result.written))}</code><br>{escape(facts)}</div>"
    return done + (message(result.note) if result.note else "")


def _left(job: Job, share: float) -> str:
    spent = time.monotonic() - (job.began or 0)
    if spent < 3 or share < 0.02:
        return ""
    left = spent / share - spent
    return f"about {round(left / 60)} minutes left" if left > 90 else f"about {max(1, round(left))} seconds left"
