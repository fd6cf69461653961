"""Reports how far a job is: what is done now, and how long all of it will still take."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

Progress = Callable[[int, int, str], None]  # passed share of TOTAL, TOTAL, a description; may raise to stop the job

TOTAL = 1000  # steps in which a share is told
READING = "Reading the files"  # what a job does before its phases are known
MOVING, MEASURING, COMPARING = "moving layers", "measuring layers", "comparing the checkpoints"
DRAWING, DECODING, ENCODING = "drawing pictures", "decoding pictures", "encoding pictures"
CAPTIONS, WATCHING, FITTING, TRAINING = "encoding captions", "watching the source", "fitting layers", "training"
EVERY = 0.25  # seconds between two reports within a step
TRUSTED = 0.25  # share of a phase after which only its own pace counts
INERTIA, SMALL = 2.0, 0.002  # seconds, and share of what is left, that must pass before the pace of past phases counts much
FARTHEST = 4.0  # by which the pace of past phases may change what is expected
FEW = 5.0  # seconds; fewer are not told


def silent(done: int, total: int, text: str) -> None:
    """Report nothing."""


def opening(name: str) -> str:
    """Return the name of the phase in which a checkpoint is opened."""
    return f"opening {name}"


def writing(name: str) -> str:
    """Return the name of the phase in which a file is written."""
    return f"writing {name}"


def hashing(name: str) -> str:
    """Return the name of the phase in which a checkpoint is hashed."""
    return f"hashing {name}"


class Phase(NamedTuple):
    """A phase of a job, with the seconds that it is expected to take."""

    name: str
    seconds: float


class Meter:
    """The progress of one job, which goes from phase to phase.

    The share that is told is that of the time: passed / (passed + left). So it moves evenly, and who works out from it how long
    the job will take finds what the text says. What is left is first what was expected, and then corrected by what the phases
    take. Time begins with the meter.
    """

    def __init__(self, progress: Progress = silent, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock, self._thread = progress, clock, threading.get_ident()
        self._began, self._share, self._told = clock(), 0.0, -EVERY
        self._ahead, self._last = list[Phase](), list[Phase]()
        self._expected, self._taken = 0.0, 0.0  # seconds that the phases that are over were expected to take, and took
        self._now, self._since, self._from, self._at = Phase("", 0.0), self._began, 0.0, 0.0
        self._text = ""

    def expect(self, phases: Sequence[Phase], *, at_end: bool = False) -> None:
        """Expect these phases, in place of those that were expected before; or ``at_end``, after them."""
        if at_end:
            self._last = list(phases)
        else:
            self._ahead = list(phases)

    def at(self, done: int, total: int, phase: str, *, share: float | None = None, unit: str = "") -> None:
        """Tell that ``done`` of ``total`` steps of the phase are over; ``share`` of it, if not all steps take equally long.

        Raises what the progress raises to stop the job.
        """
        reached = share if share is not None else done / max(1, total)
        if phase != self._now.name or reached < self._at:
            self._begin(phase, reached)
        self._at = reached
        self._text = f"{phase}, {done} of {total}{unit}" if total > 1 else phase
        self._tell()

    def tick(self) -> None:
        """Report again in the middle of a step, if some time has passed. Raises as ``at`` does.

        Only the thread of the job reports: torch runs parts of a backward pass in others.
        """
        if threading.get_ident() == self._thread and self._clock() - self._told >= EVERY:
            self._tell()

    @property
    def seconds_left(self) -> float:
        """Seconds that the job will take from now."""
        now, taken, reached = self._now, self._clock() - self._since, self._at - self._from
        trust = min(1.0, reached / TRUSTED) if now.seconds else 1.0
        whole = taken / reached if reached > 0 else 0.0
        known = trust if now.seconds else 0.0  # how much the phase tells of those to come
        spent, expected = self._taken + known * taken, self._expected + known * now.seconds * reached
        ahead = sum(phase.seconds for phase in [*self._ahead, *self._last])
        inertia = INERTIA + SMALL * ahead  # some seconds tell nothing of hours to come
        pace = min(FARTHEST, max(1 / FARTHEST, (spent + inertia) / (expected + inertia)))
        of_phase = (1 - self._at) * ((1 - trust) * pace * now.seconds + trust * whole)
        return of_phase + pace * ahead

    def _begin(self, name: str, reached: float) -> None:
        """Begin a phase. Those that were expected before it do not come any more."""
        now = self._clock()
        if self._at > self._from and self._now.seconds:
            self._expected += (self._at - self._from) * self._now.seconds
            self._taken += now - self._since
        every = [*self._ahead, *self._last]
        place = next((number for number, phase in enumerate(every) if phase.name == name), None)
        self._now = Phase(name, 0.0) if place is None else every[place]
        if place is not None:
            self._last = every[max(len(self._ahead), place + 1) :]
            self._ahead = self._ahead[place + 1 :]
        self._since, self._from = now, reached

    def _tell(self) -> None:
        left, passed = self.seconds_left, self._clock() - self._began
        self._told = self._clock()
        self._share = max(self._share, passed / (passed + left) if left else self._at)
        ends = f", about {in_words(left)} left" if left >= FEW else ""
        self._progress(int(TOTAL * self._share), TOTAL, self._text + ends)


def in_words(seconds: float) -> str:
    """Say a time as exactly as it can be known."""
    if seconds < 90:
        return f"{max(10, 10 * round(seconds / 10))} seconds"
    minutes = seconds / 60
    if minutes < 90:
        step = 1 if minutes < 10 else 5
        return f"{step * round(minutes / step)} minutes"
    hours = minutes / 60
    return f"{round(hours)} hours" if hours >= 9.5 else f"{round(2 * hours) / 2:g} hours"
