"""Jobs of the tab and of the API: they outlive who started them, and a stop reaches the right one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax.errors import LoraxError
from lorax.hosts.jobs import IN_LINE, Job, TooMany
from lorax.ui.telling import progress
from tests.ui.conftest import installed
from tests.ui.double import KINDS, Double

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=[*KINDS, "standalone"])
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def double(shape: str, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    return installed(shape if shape in KINDS else "a1111", unpacked, tmp_path, monkeypatch)


@pytest.fixture
def host(shape: str, double: Double, tmp_path: Path) -> Any:
    if shape in KINDS:
        from lorax.hosts.a1111.host import A1111

        return A1111()
    from lorax.hosts.standalone import Standalone

    return Standalone(tmp_path)


def never(*given: Any) -> list[Any]:
    raise AssertionError("this job was to be stopped before it began")


@contextmanager
def running(host: Any, owner: str = "one") -> Iterator[tuple[Job, threading.Event]]:
    """A job that goes on until the event is set, or until it is stopped."""
    release = threading.Event()

    def work(progress: Any) -> str:
        for step in range(10_000):
            progress(step, 10_000, "working")
            if release.wait(0.01):
                return "done"
        raise AssertionError("not released")

    job = host.jobs.begin(host, work, owner, "transfer", "Moving")
    until(lambda: job.began)
    try:
        yield job, release
    finally:
        release.set()
        until(lambda: not job.has_thread)


def test_a_job_that_waits_is_stopped_at_once_and_what_it_waits_for_is_not(host: Any, double: Double) -> None:
    state = double.modules["shared"].state
    with running(host) as (first, release):
        waiting = host.jobs.begin(host, never, "two")
        waiting.stop()
        assert waiting.state == "cancelled", "though its turn has not come"
        assert not state.interrupted
        assert (first.state, first.stopping) == ("running", False)
        release.set()
        until(lambda: first.state == "done")
        until(lambda: not waiting.has_thread)
    assert waiting.state == "cancelled"


def test_the_running_job_is_stopped_after_its_step_and_the_next_one_runs(host: Any) -> None:
    with running(host) as (first, _):
        second = host.jobs.begin(host, lambda progress: "second", "two")
        first.stop()
        until(lambda: first.state == "cancelled")
        until(lambda: second.state == "done")
    assert (first.outcome, second.outcome) == (None, "second")


def test_a_stop_that_comes_too_late_reaches_nobody_else(host: Any, double: Double) -> None:
    with running(host) as (first, release):
        release.set()
        until(lambda: first.state == "done")
    with running(host) as (second, _):
        first.stop()
        assert not double.modules["shared"].state.interrupted
        assert (first.state, second.stopping) == ("done", False)


def test_a_stop_while_the_host_tidies_up_does_not_undo_what_was_done(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the WebUI loads the checkpoint again that was loaded before."""
    run, (tidying, release) = host.run, (threading.Event(), threading.Event())

    def slow(work: Callable[..., Any], progress: Any) -> Any:
        found = run(work, progress)
        tidying.set()
        release.wait(20)
        return found

    monkeypatch.setattr(host, "run", slow)
    job = host.jobs.begin(host, lambda progress: "written", "one")
    until(tidying.is_set)
    job.stop()
    assert job.state == "running"
    release.set()
    until(lambda: not job.has_thread)
    assert (job.state, job.outcome) == ("done", "written")


def test_the_page_is_told_how_many_seconds_are_left_by_which_it_asks_again() -> None:
    """Each answer takes a third of a second of the browser's processor."""
    waits = Job("one", "transfer", "Moving")
    runs = Job("one", "transfer", "Moving", done=250, total=1000, began=time.monotonic() - 60)
    assert "data-left='180'" in progress([runs])
    assert "data-left" not in progress([waits])


def test_what_goes_wrong_is_the_jobs_end(host: Any, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(error: Exception) -> Callable[..., Any]:
        def work(progress: Any) -> None:
            raise error

        return work

    errors = {
        LoraxError("a sentence"): "a sentence",
        MemoryError(): "Not enough memory. Close other programs, and try again.",
        torch.cuda.OutOfMemoryError("CUDA out of memory."): "The graphics card has not enough memory. Close other programs that",
        RuntimeError("CUDA error: out of memory"): "The graphics card has not enough memory.",
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"): "The graphics card has not enough memory.",
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"): "The graphics card has",
        OSError(28, "No space left on device", "a.safetensors"): "a.safetensors: No space left on device. Check the space",
        KeyError("a key"): "An unexpected error (KeyError: 'a key'). Please report it, with what the console says.",
    }
    jobs = [host.jobs.begin(host, wrong(error)) for error in errors]
    until(lambda: all(job.state == "failed" for job in jobs))
    assert all(job.error.startswith(said) for job, said in zip(jobs, errors.values(), strict=True))
    assert "a key" in caplog.text
    assert "memory" not in caplog.text


def test_jobs_belong_to_their_owners_and_their_number_is_bounded(host: Any) -> None:
    with running(host):
        jobs = [host.jobs.begin(host, lambda progress: None, "two", "compare") for _ in range(IN_LINE - 1)]
        with pytest.raises(TooMany, match=f"{IN_LINE} jobs"):
            host.jobs.begin(host, never)
        assert host.jobs.of("two") == jobs
        jobs[0].stop()
        host.jobs.forget("two", "compare")
        assert host.jobs.of("two") == jobs[1:], "those that still run or wait stay"
        with pytest.raises(TooMany, match=f"{IN_LINE} jobs"):  # its thread still waits
            host.jobs.begin(host, never)
        for job in jobs:
            job.stop()
    host.jobs.forget("two", "compare")
    assert host.jobs.of("two") == []


def test_jobs_of_the_webui_survive_its_reload(double: Double) -> None:
    from lorax.hosts.a1111.host import A1111

    with running(A1111()) as (job, _):
        assert A1111().jobs.of("one") == [job]


def test_a_job_of_the_api_that_waits_is_cancelled(host: Any) -> None:
    from lorax.api.jobs import begin, found, shown

    with running(host):
        id = begin(host, never).id
        found(host, id).stop()
        assert shown(found(host, id)).state == "cancelled"
