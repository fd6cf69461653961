"""The jobs of the API, each in its own thread."""

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException

from lorax.api.bodies import LoraxJob
from lorax.errors import Interrupted, LoraxError
from lorax.files import as_utf8
from lorax.hosts.base import Host
from lorax.progress import Progress
from lorax.workflow import End

FINISHED = 50  # finished jobs whose results are available
IN_LINE = 20  # jobs that run or wait, each in a thread
Work = Callable[[Progress], list[dict[str, Any]]]  # returns the job's results


@dataclass
class ApiJob:
    """A transfer or an analysis in its own thread."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "running"
    done: int = 0
    total: int = 0
    text: str = ""
    error: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def start(self, host: Host, work: Work) -> None:
        threading.Thread(target=self._run, args=(host, work), name="lorax-job", daemon=True).start()

    def shown(self) -> LoraxJob:
        shown = {name: getattr(self, name) for name in ("id", "state", "done", "total", "text", "error", "results")}
        return LoraxJob(**json.loads(as_utf8(json.dumps(shown, ensure_ascii=False))))

    def _run(self, host: Host, work: Work) -> None:
        def begin(progress: Progress) -> list[dict[str, Any]]:
            progress(0, 1, "Reading the files")  # raises if the job was cancelled in the queue
            return work(progress)

        try:
            self.results = host.run(begin, self._progress)
            stopped = any(result.get("outcome") == End.STOPPED.value for result in self.results)
            self.state = "cancelled" if stopped else "done"
        except Interrupted:
            self.state = "cancelled"
        except Exception as error:  # whatever happened, the job must get a final state
            self.error, self.state = f"{error}" if isinstance(error, LoraxError) else repr(error), "failed"

    def _progress(self, done: int, total: int, text: str) -> None:
        if self.cancelled.is_set():
            raise Interrupted
        self.done, self.total, self.text = done, total, text


class Jobs:
    """The jobs of a host: those that run or wait, and the last ones that have ended."""

    def __init__(self, host: Host) -> None:
        self._host, self._jobs = host, dict[str, ApiJob]()
        self._lock = threading.Lock()  # FastAPI runs requests in threads

    def begin(self, work: Work) -> LoraxJob:
        """Start a job. Raises HTTPException if too many run or wait."""
        started = ApiJob()
        with self._lock:
            ended = [id for id, job in self._jobs.items() if job.state != "running"]
            if len(self._jobs) - len(ended) >= IN_LINE:
                raise HTTPException(429, f"{IN_LINE} jobs run or wait already, which is the most. Ask again when one has ended.")
            for id in ended[:-FINISHED]:
                del self._jobs[id]
            self._jobs[started.id] = started
        started.start(self._host, work)
        return started.shown()

    def find(self, id: str) -> ApiJob:
        """Return a job. Raises HTTPException if there is none."""
        if (found := self._jobs.get(id)) is None:
            raise HTTPException(404, f"No job {id}.")
        return found
