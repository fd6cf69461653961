"""Tells which of a host's jobs waits in its queue and which one runs, so that a stop reaches the right one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lorax.errors import Interrupted


class Turn:
    """The turn of one job: it waits, runs, and may be stopped at any time."""

    def __init__(self) -> None:
        self.running, self.stopped = False, False

    def check(self) -> None:
        """Raise Interrupted once the job was stopped, even before its turn has come."""
        if self.stopped:
            raise Interrupted


class Turns:
    """The turns of all jobs."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._lock = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[Turn]:
        """Yield a turn that waits until ``begin`` is called, and ends with the block."""
        turn = Turn()
        with self._lock:
            self._turns.append(turn)
        try:
            yield turn
        finally:
            with self._lock:
                self._turns.remove(turn)

    def begin(self, turn: Turn) -> None:
        """Mark the job as running."""
        with self._lock:
            turn.running = True

    def stop(self) -> bool:
        """Stop the running job, or all waiting ones if none is running; return whether one is running."""
        with self._lock:
            running = [turn for turn in self._turns if turn.running]
            for turn in running or self._turns:
                turn.stopped = True
            return bool(running)
