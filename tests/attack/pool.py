"""Processes that attempt the files of a campaign, each within bounds of time and memory."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.attack import worker
from tests.attack.seeds import Kept
from tests.attack.worker import MEGABYTES, End

SECONDS = 10  # that a file may take of the processor
HANGING = 120  # seconds on the clock, after which a process is ended; other work may run on the machine


@dataclass
class Pool:
    """Processes that are each at one file. One that dies or hangs is replaced."""

    kept: Kept
    campaign: str
    folder: Path
    numbers: Iterator[int]
    busy: dict[Connection, tuple[BaseProcess, int, float]] = field(default_factory=dict)

    def start(self) -> None:
        if (number := next(self.numbers, None)) is None:
            return
        os.environ["MALLOC_ARENA_MAX"] = "1"  # else each thread takes much of the limit
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        given = theirs, self.kept, self.campaign, self.folder / f"work-{number}"
        process = context.Process(target=worker.work, args=given, daemon=True)
        process.start()
        theirs.close()
        assert ours.recv() == worker.READY  # what it loads until then is not a file's fault
        self._ask(ours, process, number)

    def ends(self) -> Iterator[tuple[int, End]]:
        """Yield the number and the end of every file."""
        while self.busy:
            for pipe in wait(list(self.busy), timeout=1.0):
                assert isinstance(pipe, Connection)
                process, number, _ = self.busy.pop(pipe)
                try:
                    end = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    end = self._failed(number, f"the process died ({process.exitcode})")
                    self.start()
                else:
                    self._ask(pipe, process, next(self.numbers, None))
                yield number, _bounded(end)
            for pipe in [pipe for pipe, (_, _, began) in self.busy.items() if time.monotonic() - began > HANGING]:
                process, number, _ = self.busy.pop(pipe)
                process.kill()
                self.start()
                yield number, self._failed(number, f"no end after {HANGING} s")

    def _ask(self, pipe: Connection, process: BaseProcess, number: int | None) -> None:
        pipe.send(number)
        if number is not None:
            self.busy[pipe] = process, number, time.monotonic()

    def _failed(self, number: int, what: str) -> End:
        return End(self.kept.seeds[number % len(self.kept.seeds)].name, "violation", what)


def _bounded(end: End) -> End:
    """Return the end of a file; a violation if it took more than it may."""
    if end.kind == "violation" or (end.seconds <= SECONDS and end.megabytes <= MEGABYTES):
        return end
    return end._replace(kind="violation", what=f"{end.seconds:.1f} s, {end.megabytes:.0f} MB; {end.what}")
