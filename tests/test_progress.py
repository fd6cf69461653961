"""How far a job is, and how long it will take: corrected by what its phases take."""

from __future__ import annotations

import pytest

from lorax.progress import Meter, Phase


class Told:
    """A meter on a clock that stands still but for ``work``, and what it tells."""

    def __init__(self, *phases: Phase) -> None:
        self.now, self.said = 0.0, list[tuple[float, str]]()
        self.meter = Meter(lambda done, total, text: self.said.append((done / total, text)), lambda: self.now)
        self.meter.expect(phases)

    def work(self, phase: str, steps: int, seconds: float) -> None:
        for step in range(steps):
            self.meter.at(step, steps, phase)
            self.now += seconds / steps
        self.meter.at(steps, steps, phase)


def test_a_job_as_expected_moves_with_the_time() -> None:
    told = Told(Phase("drawing", 30), Phase("training", 70))
    told.meter.expect([Phase("writing", 20)], at_end=True)
    told.work("drawing", 10, 30)
    assert [round(share, 3) for share, _ in told.said] == [round(0.025 * step, 3) for step in range(11)]
    assert told.said[4][1] == "drawing, 4 of 10, about 2 minutes left"
    told.work("training", 10, 70)
    told.work("writing", 2, 20)
    assert told.said[-1] == (1.0, "writing, 2 of 2")


@pytest.mark.parametrize("slower", [0.4, 3.0])
def test_what_is_left_is_corrected_by_what_the_first_steps_take(slower: float) -> None:
    """A machine that others use, or less. A host's own estimate, time passed / share, comes to the same."""
    told = Told(Phase("drawing", 40), Phase("decoding", 20), Phase("training", 140))
    whole = 200 * slower
    told.work("drawing", 40, 40 * slower)
    left, share = told.meter.seconds_left, told.said[-1][0]
    assert left == pytest.approx(whole - told.now, rel=0.1)
    assert told.now / share == pytest.approx(whole, rel=0.15)
    told.work("decoding", 10, 20 * slower)
    told.work("training", 100, 140 * slower)
    shares = [share for share, _ in told.said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_some_seconds_tell_nothing_of_hours_to_come() -> None:
    told = Told(Phase("comparing", 0.5), Phase("drawing", 40_000))
    told.work("comparing", 10, 10)
    assert told.meter.seconds_left == pytest.approx(40_000, rel=0.15)


def test_what_need_not_be_done_is_not_waited_for() -> None:
    """Pictures in the cache, and a training that goes on in its middle, tell nothing about the speed."""
    told = Told(Phase("opening", 1), Phase("drawing", 300), Phase("training", 100))
    told.work("opening", 1, 1)
    told.meter.at(90, 100, "training")
    assert told.meter.seconds_left == pytest.approx(10, rel=0.1)
    told.now += 1
    told.meter.at(91, 100, "training")
    assert told.meter.seconds_left == pytest.approx(9, rel=0.1)


def test_a_phase_that_nobody_expected_ends_before_the_next_begins() -> None:
    told = Told(Phase("drawing", 10))
    told.work("waiting", 1, 5)
    told.work("drawing", 2, 10)
    assert [text for _, text in told.said] == [
        "waiting, about 10 seconds left",
        "waiting, about 10 seconds left",
        "drawing, 0 of 2, about 10 seconds left",
        "drawing, 1 of 2, about 10 seconds left",
        "drawing, 2 of 2",
    ]


def test_a_step_is_told_of_in_its_middle_now_and_then() -> None:
    told = Told()
    told.meter.at(0, 2, "drawing")
    for _ in range(100):
        told.now += 0.01
        told.meter.tick()
    assert 3 <= len(told.said) - 1 <= 4
