"""Workers must not wait for each other's decompositions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from lorax.subspace import Decomposition, once


class Meeting:
    def __init__(self, together: threading.Barrier) -> None:
        self.together, self.computed = together, 0

    @once
    def number(self) -> int:
        """Number of times that it was computed."""
        self.together.wait(timeout=20)
        self.computed += 1
        return self.computed


def test_two_instances_are_computed_at_the_same_time_and_once() -> None:
    together = threading.Barrier(2)
    meetings = Meeting(together), Meeting(together)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda one: one.number, meetings)) == [1, 1]
    assert [one.number for one in meetings] == [1, 1]
    assert Meeting.number.__doc__ == "Number of times that it was computed."


def test_a_decomposition_is_such_a_property() -> None:
    properties = [value for kind in Decomposition.__mro__ for value in vars(kind).values()]
    assert any(isinstance(value, once) for value in properties)
