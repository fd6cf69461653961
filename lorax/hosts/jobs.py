"""Jobs in threads of the server. The tab and the API start, watch and stop them; a job goes on whoever looks at it."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from lorax.errors import Interrupted, LoraxError, in_words, is_expected
from lorax.progress import READING, Progress

T = TypeVar("T")
FINISHED = 20  # jobs that have ended and whose outcomes are kept
IN_LINE = 20  # jobs that run or wait, each in a thread
log = logging.getLogger(__name__)


class Queue(Protocol):
    """What runs one job after the other: a host. See ``hosts.base.Host``."""

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T: ...

    def interrupt(self) -> None: ...


class TooMany(LoraxError):
    """Too many jobs run or wait."""


@dataclass(eq=False)
class Job:
    """A piece of work that waits for its turn, runs and ends. ``owner`` is a page of the tab, or empty for the API."""

    owner: str
    kind: str
    title: str  # says what is done, and with what
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "running"  # or waiting, which ``began`` tells; then done, failed or cancelled
    done: int = 0
    total: int = 0
    text: str = ""
    error: str = ""
    outcome: Any = None  # what the work returned
    began: float | None = None  # by the monotonic clock, when its turn came
    stopping: bool = False
    is_forgotten: bool = False  # its owner sees it no more; its thread may still wait in the queue
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _interrupt: Callable[[], None] | None = None  # stops what the host does for this job, while it does

    def start(self, queue: Queue, work: Callable[[Progress], Any]) -> None:
        self._thread = threading.Thread(target=self._run, args=(queue, work), name="lorax-job", daemon=True)
        self._thread.start()

    @property
    def has_thread(self) -> bool:
        """Whether its thread is alive, which is so for a while after a stop in the queue."""
        return self._thread.is_alive()

    @property
    def seconds_left(self) -> float | None:
        """How long it will still take, by the share of its time that has passed; None if nothing tells that yet."""
        if self.began is None or not 0 < self.done <= self.total:
            return None
        return (time.monotonic() - self.began) * (self.total - self.done) / self.done

    def stop(self) -> None:
        """Stop the job: at once if it waits, else after its current step."""
        with self._lock:
            self.stopping = True
            if self._interrupt:
                self._interrupt()
            elif self.state == "running" and self.began is None:  # later, its work is done, and the host tidies up
                self.state = "cancelled"

    def _run(self, queue: Queue, work: Callable[[Progress], Any]) -> None:
        def begin(progress: Progress) -> Any:
            with self._lock:
                if self.stopping:
                    raise Interrupted
                self.began, self._interrupt = time.monotonic(), queue.interrupt
            try:
                progress(0, 1, READING)
                return work(progress)
            finally:
                with self._lock:  # before the host runs another job, which a stop must not reach
                    self._interrupt = None

        try:
            self.outcome = queue.run(begin, self._progress)
            self.state = "done"
        except Interrupted:
            self.state = "cancelled"
        except Exception as error:  # whatever happened, the job must get a final state
            if not is_expected(error):
                log.exception("a job failed")
            self.error, self.state = in_words(error), "failed"

    def _progress(self, done: int, total: int, text: str) -> None:
        if self.stopping:
            raise Interrupted
        self.done, self.total, self.text = done, total, text


class Jobs:
    """The jobs of a host: those that run or wait, and the last ones that have ended."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()  # requests come in threads

    def begin(self, queue: Queue, work: Callable[[Progress], Any], owner: str = "", kind: str = "", title: str = "") -> Job:
        """Start a job. Raises TooMany if too many run or wait."""
        started = Job(owner, kind, title)
        with self._lock:
            ended = [id for id, job in self._jobs.items() if not job.has_thread]
            if len(self._jobs) - len(ended) >= IN_LINE:
                raise TooMany(
                    f"{IN_LINE} jobs run or wait already, which is the most. Ask again when one has ended; in a WebUI, one that "
                    "was stopped while it waited keeps its place until its turn comes."
                )
            for id in ended:
                if self._jobs[id].is_forgotten or id not in ended[-FINISHED:]:
                    del self._jobs[id]
            started.start(queue, work)
            self._jobs[started.id] = started
        return started

    def of(self, owner: str) -> list[Job]:
        """Return the owner's jobs in the order in which they were started."""
        with self._lock:
            return [job for job in self._jobs.values() if job.owner == owner and not job.is_forgotten]

    def forget(self, owner: str, *kinds: str) -> None:
        """Forget the owner's jobs of these kinds that have ended."""
        with self._lock:
            for job in self._jobs.values():
                if job.owner == owner and job.kind in kinds and job.state != "running":
                    job.is_forgotten, job.outcome = True, None
