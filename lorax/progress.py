"""Reports the progress of a job, and counts its steps."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # steps done, total steps, a description; may raise to stop the job


def silent(done: int, total: int, text: str) -> None:
    """Report nothing."""


class Meter:
    """A counter of a job's steps, whose total becomes known while the job runs."""

    def __init__(self, progress: Progress = silent) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, steps: int) -> None:
        """Add to the total number of steps."""
        self._total += steps

    def step(self, text: str) -> None:
        """Begin the next step. Raises what the progress raises to stop the job."""
        self.note(text)
        self._done += 1

    def note(self, text: str) -> None:
        """Report work between two steps. Raises as ``step`` does."""
        self._progress(self._done, self._total, text)
