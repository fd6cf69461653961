"""Reads and computes at the same time, within a memory budget."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Generic, TypeVar

import torch

from lorax.devices import free_on_card, pool
from lorax.errors import LoraxError, NotEnoughMemory, is_out_of_memory, release
from lorax.progress import EVERY

Task = TypeVar("Task")
Loaded = TypeVar("Loaded")
Done = TypeVar("Done")
LIMITS = {"cpu": 800 << 20, "cuda": 1500 << 20}  # bytes of all running tasks; no more than half of the free memory
AHEAD = 2  # tasks that are read before a worker is free
log = logging.getLogger(__name__)


class Stream(Generic[Task, Loaded, Done]):
    """A pipeline: one thread reads ahead by ``load(task, device)``, others run ``work(task, loaded)``. Results are in order.

    On a CPU there are as many workers as torch has threads, with one thread each: parallel decompositions are faster than a
    parallel decomposition. On CUDA there is one worker. ``size(task)`` is the number of bytes that a task takes. ``idle`` is
    called now and then while a result is waited for, and may raise to stop.
    """

    def __init__(
        self,
        device: torch.device,
        size: Callable[[Task], int],
        load: Callable[[Task, torch.device], Loaded],
        work: Callable[[Task, Loaded], Done],
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.device, self._size, self._load, self._work, self._idle = device, size, load, work, idle
        self.budget = min(LIMITS[device.type], _free(device) // 2)
        self._workers = torch.get_num_threads() if device.type == "cpu" else 1

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Yield the results. Raises what ``load`` and ``work`` raise, and LoraxError if one task alone exceeds the memory."""
        waiting, running = deque(tasks), deque[tuple[Task, Future[Done]]]()
        reader, workers = pool(1, "lorax-reader"), pool(self._workers, "lorax-worker")

        def begin(task: Task) -> Future[Done]:
            loaded = reader.submit(self._load, task, self.device)
            return workers.submit(lambda: self._work(task, loaded.result()))

        try:
            while waiting or running:
                while waiting and (not running or self._has_room(running, waiting[0])):
                    task = waiting.popleft()
                    running.append((task, begin(task)))
                task, future = running.popleft()
                while True:
                    while not wait([future], timeout=EVERY).done:
                        self._idle()
                    try:
                        done = future.result()
                        break
                    except Exception as error:
                        if not is_out_of_memory(error):
                            raise
                        cause = error
                    release(cause)  # what it holds on the device is what the next try needs
                    wait([other for _, other in running])
                    self._shrink(task, cause)
                    future = begin(task)
                yield done
        finally:
            for threads in (reader, workers):
                threads.shutdown(cancel_futures=True)

    def _has_room(self, running: Iterable[tuple[Task, Future[Done]]], task: Task) -> bool:
        sizes = [self._size(other) for other, _ in running]
        return len(sizes) < self._workers + AHEAD and sum(sizes) + self._size(task) <= self.budget

    def _shrink(self, task: Task, cause: Exception) -> None:
        """Halve the budget, or switch to the CPU if one task exceeds it. Raises LoraxError if neither is possible."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.budget > self._size(task):
            self.budget //= 2
            log.warning("Out of memory on %s: going on with a working set of %d MB.", self.device, self.budget >> 20)
        elif self.device.type == "cuda":
            self.device = torch.device("cpu")
            self.budget = min(LIMITS["cpu"], _free(self.device) // 2)
            log.warning("Out of memory on the graphics card: going on on the CPU, which takes longer.")
        else:
            words = str(cause) if isinstance(cause, LoraxError) else "Close other programs."
            raise NotEnoughMemory(f"Not enough memory: a layer needs about {self._size(task) >> 20} MB. {words}") from cause


def _free(device: torch.device) -> int:
    """Return the free bytes on the device; a large number if the system does not tell."""
    if device.type == "cuda":
        return free_on_card(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 1 << 40
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 1 << 40)
