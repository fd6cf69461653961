"""Jobs that wait in a host's queue: a stop reaches them, and nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lorax.hosts.turns import Turn, Turns

from lorax.errors import Interrupted
from tests.ui.double import Double

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def busy(host: Any) -> Iterator[None]:
    """A host whose queue another job has."""
    begun, release = threading.Event(), threading.Event()

    def work(progress: Any) -> None:
        begun.set()
        release.wait(10)

    other = threading.Thread(target=host.run, args=(work, lambda *given: None))
    other.start()
    begun.wait(10)
    try:
        yield
    finally:
        release.set()
        other.join()


@pytest.fixture(params=["a1111", "standalone"])
def host(request: pytest.FixtureRequest, double: Double, tmp_path: Path) -> tuple[Any, Any]:
    """A host, and what holds its queue."""
    if request.param == "a1111":
        from lorax.hosts.a1111.host import A1111

        return A1111(), double.modules["call_queue"].queue_lock
    from lorax.hosts.standalone import Standalone

    made = Standalone(tmp_path)
    return made, busy(made)


def never(*given: Any) -> list[Any]:
    raise AssertionError("this job was to be stopped before it began")


def test_a_job_of_the_tab_that_waits_is_stopped_and_what_it_waits_for_is_not(
    host: tuple[Any, Any], double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorax.ui.handlers import Handlers
    from lorax.ui.requests import Form

    found, queue = host
    answers: list[Any] = []
    waits, taken = threading.Event(), Turns.taken

    @contextmanager
    def noticed(turns: Turns) -> Iterator[Turn]:
        with taken(turns) as turn:
            waits.set()
            yield turn

    monkeypatch.setattr(Turns, "taken", noticed)
    with queue:  # another's picture is being made
        handler = Handlers(found).job(never, Form(), dict, 1)
        bar = [] if "standalone" in type(found).__module__ else ["task(x)"]
        waiting = threading.Thread(target=lambda: answers.extend(handler(*bar, lambda *given, **more: None)))
        waiting.start()
        assert waits.wait(10)
        found.interrupt()
        assert not double.modules["shared"].state.interrupted
    waiting.join(10)
    assert "Stopped. Nothing was written." in answers[0]
    found.interrupt()  # nothing of ours is there to be stopped
    assert not double.modules["shared"].state.interrupted


def test_a_job_of_the_api_that_waits_is_cancelled(host: tuple[Any, Any]) -> None:
    from lorax.api import ApiJob

    found, queue = host
    job = ApiJob()
    with queue:
        job.start(found, never)
        job.cancelled.set()
    until(lambda: job.state != "running")
    assert job.state == "cancelled"


def test_a_job_that_begins_to_wait_does_not_undo_the_stop_of_the_one_that_runs() -> None:
    turns = Turns()
    with turns.taken() as running:
        turns.begin(running)
        assert turns.stop()
        with turns.taken() as second:
            second.check()
            with pytest.raises(Interrupted):
                running.check()
