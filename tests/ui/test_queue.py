"""Jobs that wait in a host's queue: a stop reaches them, and nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ui.double import Double

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=["a1111", "standalone"])
def host(request: pytest.FixtureRequest, double: Double, tmp_path: Path) -> tuple[Any, Any]:
    """A host, and the lock that is its queue."""
    if request.param == "a1111":
        from lorax.hosts.a1111.host import A1111

        return A1111(), double.modules["call_queue"].queue_lock
    from lorax.hosts.standalone import Standalone

    made = Standalone(tmp_path)
    return made, made._alone


def never(*given: Any) -> list[Any]:
    raise AssertionError("this job was to be stopped before it began")


def test_a_job_of_the_tab_that_waits_is_stopped_and_what_it_waits_for_is_not(host: tuple[Any, Any], double: Double) -> None:
    from lorax.ui.handlers import Handlers

    found, queue = host
    answers: list[Any] = []
    with queue:  # another's picture is being made
        handler = Handlers(found).job(never, 1)
        bar = [] if "standalone" in type(found).__module__ else ["task(x)"]
        waiting = threading.Thread(target=lambda: answers.extend(handler(*bar, lambda *given, **more: None)))
        waiting.start()
        until(lambda: found._turns._jobs)
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


def test_a_job_that_begins_to_wait_does_not_undo_the_stop_of_the_one_that_runs(host: tuple[Any, Any], double: Double) -> None:
    from lorax.errors import Interrupted

    found, _ = host
    with found._turns.job() as running:
        found._turns.begin(running)
        found.interrupt()
        with found._turns.job() as second:
            second.check()
            with pytest.raises(Interrupted):
                running.check()
