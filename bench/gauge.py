"""Seconds, memory and floating-point operations of one action of a running model."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import anonymous

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """``before`` and ``peak``: bytes in all, of anonymous memory or on CUDA of tensors there.

    ``seconds`` of the processor, which other work on the machine blurs least; on CUDA by the clock.
    """

    action: str
    seconds: float
    before: int
    peak: int

    def __str__(self) -> str:
        return f"| {self.action} | {self.seconds:.1f} | {self.before / 1e9:.2f} | {self.peak / 1e9:.2f} |"


class Gauge:
    def __init__(self, device: torch.device, show: Callable[[Reading], None]) -> None:
        self._device, self._show = device, show
        self.readings: list[Reading] = []

    def __call__(self, action: str, run: Callable[[], T]) -> T:
        """What ``run`` returns, which is measured."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, began = torch.cuda.memory_allocated(), time.perf_counter()
            found = run()
            torch.cuda.synchronize()
            reading = Reading(action, time.perf_counter() - began, before, torch.cuda.max_memory_allocated())
        else:
            ctypes.CDLL(None).malloc_trim(0)
            before, done, peak = anonymous(), threading.Event(), [0]

            def watch() -> None:
                while not done.wait(0.02):
                    peak[0] = max(peak[0], anonymous())

            thread = threading.Thread(target=watch)
            thread.start()
            began = time.process_time()
            try:
                found = run()
            finally:
                seconds = time.process_time() - began
                done.set()
                thread.join()
            reading = Reading(action, seconds, before, max(peak[0], anonymous()))
        self.readings.append(reading)
        self._show(reading)
        return found


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions: two for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
