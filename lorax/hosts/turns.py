"""Which of a host's jobs wait in its queue and which one runs, so that a stop reaches the right one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lorax.errors import Interrupted


class Job:
    def __init__(self) -> None:
        self.running, self.stopped = False, False

    def check(self) -> None:
        """Raise Interrupted once the job was stopped, be it before its turn."""
        if self.stopped:
            raise Interrupted


class Turns:
    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._lock = threading.Lock()

    @contextmanager
    def job(self) -> Iterator[Job]:
        """One that waits from the start of the block, runs once ``begin`` is called, and is over at the block's end."""
        job = Job()
        with self._lock:
            self._jobs.append(job)
        try:
            yield job
        finally:
            with self._lock:
                self._jobs.remove(job)

    def begin(self, job: Job) -> None:
        with self._lock:
            job.running = True

    def stop(self) -> bool:
        """Stop the job that runs, or if none does, those that wait. Return whether one runs."""
        with self._lock:
            running = [job for job in self._jobs if job.running]
            for job in running or self._jobs:
                job.stopped = True
            return bool(running)
