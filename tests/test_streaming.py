"""Tasks that are read, worked on and handed on at the same time: order, working set, lack of memory, errors."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lorax.errors import LoraxError
from lorax.transfer.streaming import Stream

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_workers() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)  # two processes of two threads on two cores take ten times as long for what comes after


def stream(work: Callable[[int, str], object], size: int = 1, device: torch.device = CPU) -> Stream[int, str, object]:
    return Stream(device, lambda task: size, lambda task, where: f"{task} on {where}", work)


def test_results_come_in_the_order_of_the_tasks() -> None:
    def work(task: int, loaded: str) -> str:
        time.sleep(0.01 * (task % 3))
        return loaded

    assert list(stream(work)(range(20))) == [f"{task} on cpu" for task in range(20)]


def test_a_slow_task_does_not_keep_a_stop_waiting() -> None:
    asked = threading.Event()

    def work(task: int, loaded: str) -> bool:
        return asked.wait(20)

    slow = Stream(CPU, lambda task: 1, lambda task, where: "", work, asked.set)
    assert list(slow([1])) == [True]


def test_workers_run_side_by_side_with_one_thread_each() -> None:
    both = threading.Barrier(2, timeout=20)

    def work(task: int, loaded: str) -> int:
        both.wait()  # passes only when two are at work
        return torch.get_num_threads()

    assert list(stream(work)(range(6))) == [1] * 6
    assert torch.get_num_threads() == 2


def test_what_begins_later_has_all_cores() -> None:
    """The next job, and a picture of the WebUI, are threads of their own."""
    assert list(stream(lambda task, loaded: task)(range(3))) == [0, 1, 2]
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2


def test_the_working_set_is_bounded() -> None:
    alive, most, lock = [0], [0], threading.Lock()

    def load(task: int, device: torch.device) -> int:
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return task

    def work(task: int, loaded: int) -> int:
        time.sleep(0.005)
        with lock:
            alive[0] -= 1
        return task

    bounded = Stream(CPU, lambda task: 10, load, work)
    bounded.budget = 25
    assert list(bounded(range(12))) == list(range(12))
    assert most[0] == 2
    alive[0] = most[0] = 0
    bounded.budget = 5  # less than one: one at a time
    assert list(bounded(range(12))) == list(range(12))
    assert most[0] == 1


def test_out_of_memory_halves_the_working_set_and_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    failed: list[int] = []

    def work(task: int, loaded: str) -> int:
        if task == 3 and len(failed) < 2:
            failed.append(task)
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
        return task

    smaller = stream(work)
    before = smaller.budget
    with caplog.at_level(logging.WARNING):
        assert list(smaller(range(8))) == list(range(8))
    assert smaller.budget == before // 4
    assert "Out of memory on cpu: going on with a working set of" in caplog.text


def test_what_failed_holds_nothing_while_it_is_tried_again() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(task: int, loaded: str) -> int:
        large = torch.ones(2)
        held.append(weakref.ref(large))
        if len(held) == 1:
            raise MemoryError
        return sum(one() is not None for one in held)

    assert list(stream(work)([0])) == [1], "its own alone"


def test_a_graphics_card_that_is_too_small_leaves_the_work_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def told(device: int | None) -> tuple[int, int]:
        assert not isinstance(device, torch.device), "torch 2.1 takes none without an index"
        return 16, 16

    monkeypatch.setattr(torch.cuda, "mem_get_info", told)

    def work(task: int, loaded: str) -> str:
        if "cuda" in loaded and task >= 2:
            raise torch.cuda.OutOfMemoryError
        return loaded

    with caplog.at_level(logging.WARNING):
        done = list(stream(work, size=4, device=torch.device("cuda"))(range(5)))
    assert done == ["0 on cuda", "1 on cuda", "2 on cpu", "3 on cpu", "4 on cpu"]
    assert "going on on the CPU" in caplog.text


def test_no_memory_at_all_is_an_error_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(task: int, loaded: str) -> None:
        raise MemoryError

    with pytest.raises(LoraxError, match="Not enough memory: a layer needs about 4096 MB"):
        list(stream(work, size=1 << 32)(range(3)))


@pytest.mark.parametrize("where", ["load", "work"])
def test_errors_arrive_and_the_rest_is_not_begun(where: str) -> None:
    begun: list[int] = []

    def fail(here: str, task: int) -> int:
        if here == where and task == 2:
            raise ValueError("two")
        begun.append(task)
        return task

    failing = Stream(CPU, lambda task: 1, lambda task, device: fail("load", task), lambda task, loaded: fail("work", task))
    with pytest.raises(ValueError, match="two"):
        list(failing(range(100)))
    assert max(begun) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lorax-")]


def test_who_stops_listening_stops_the_work() -> None:
    results = stream(lambda task, loaded: task)(range(1000))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lorax-")]
