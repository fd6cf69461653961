"""How a job tells how far it is, and how its steps are counted."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # steps done, steps in all, what is being worked on; raises to stop the job


def silent(done: int, total: int, text: str) -> None:
    """Tell nobody."""


class Meter:
    """Counts the steps of a job. How many there are in all becomes known while it runs."""

    def __init__(self, progress: Progress = silent) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, steps: int) -> None:
        """Add to the steps that the job has in all."""
        self._total += steps

    def step(self, text: str) -> None:
        """Begin the next step. Raises what the progress raises to stop the job."""
        self.note(text)
        self._done += 1

    def note(self, text: str) -> None:
        """Tell what is done between two steps. Raises as ``step`` does."""
        self._progress(self._done, self._total, text)
