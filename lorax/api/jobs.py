"""The API's jobs, which are those of the host without an owner."""

import json
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException

from lorax.api.bodies import LoraxJob
from lorax.files import as_utf8
from lorax.hosts.base import Host
from lorax.hosts.jobs import FINISHED, Job, TooMany
from lorax.progress import Progress
from lorax.workflow import End

API = ""  # the owner


def begin(host: Host, work: Callable[[Progress], list[dict[str, Any]]]) -> LoraxJob:
    """Start a job. Raises HTTPException if too many run or wait."""
    try:
        return shown(host.jobs.begin(host, work, API))
    except TooMany as error:
        raise HTTPException(429, str(error)) from error


def found(host: Host, id: str) -> Job:
    """Return a job. Raises HTTPException if there is none."""
    if (job := next((job for job in host.jobs.of(API) if job.id == id), None)) is None:
        raise HTTPException(404, f"No job {id}. The last {FINISHED} that have ended are kept, until the server is restarted.")
    return job


def shown(job: Job) -> LoraxJob:
    """Return the job as the API shows it. A batch that was stopped has results, too."""
    state = job.state  # before what it left, since it may end in between
    results = (job.outcome or []) if state == "done" else []
    stopped = any(result.get("outcome") == End.STOPPED.value for result in results)
    values = {name: getattr(job, name) for name in ("id", "done", "total", "text", "error")}
    values |= {"state": "cancelled" if stopped else state, "results": results}
    return LoraxJob(**json.loads(as_utf8(json.dumps(values, ensure_ascii=False))))
