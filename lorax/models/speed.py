"""Measures how fast a device computes what models consist of, and what share of it a job gets beside others."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from lorax.devices import pool

TIMES, EACH = 5, 0.03  # how often a speed is measured, of which the fastest counts, and for how many seconds
REMEMBERED = 60.0  # seconds in which the share is not measured again; other work on the machine comes and goes
SMALL_CARD = 4e12  # operations per second of a card that cannot be measured
CHANNELS = 64  # widths are measured in multiples of it
_known: dict[tuple[object, ...], tuple[float, bool]] = {}  # operations per second, and whether the machine was busy meanwhile
_share: tuple[float, float] | None = None  # when it was measured, and the share of the CPU
log = logging.getLogger(__name__)
_full: set[torch.device] = set()  # cards that could not be measured, which is told once
_lock = threading.RLock()  # two measurements at a time would slow each other down

Made = tuple[float, Callable[[], object]]  # operations, and what does them


def speed_of(device: torch.device, dtype: torch.dtype, width: float) -> float:
    """Return the operations per second of a block of a UNet of this width: a convolution, attention and linear layers.

    They are those of a device that does nothing else, whatever it does meanwhile, so that an estimate stays the same. Of a card
    that cannot be measured, as while its memory is full, they are those of a small one.
    """
    channels = CHANNELS * max(1, round(width / CHANNELS))
    try:
        return _kept((device, dtype, channels), lambda: _block(device, dtype, channels), device.type != "cpu")
    except RuntimeError as error:
        if device.type == "cpu":
            raise
        if device not in _full:
            _full.add(device)
            log.warning("%s could not be measured: %s", device, error)
        return SMALL_CARD


def speed_of_solving() -> float:
    """Return the operations per second of products in float64 on the CPU, if it does nothing else."""
    return _kept(("solving",), _product)


def share_of(device: torch.device) -> float:
    """Return the share of the device that a job gets beside others now; 1 for a card. It is remembered for a minute."""
    global _share
    if device.type != "cpu":
        return 1.0
    with _lock:
        if _share is None or time.monotonic() - _share[0] >= REMEMBERED:
            _share = time.monotonic(), math.sqrt(_in_a_thread(_share_of_a_core) * _share_of_cores())
        return _share[1]


def _kept(key: tuple[object, ...], make: Callable[[], Made], on_card: bool = False) -> float:
    """Return a speed, which is measured once; and once more after the machine was busy."""
    with _lock:
        if key not in _known or (_known[key][1] and not _is_busy()):
            (operations, run), is_busy = make(), not on_card and _is_busy()
            _known[key] = operations / (_seconds_of_one(run) if is_busy else _fastest(run, time.perf_counter)), is_busy
        return _known[key][0]


def _seconds_of_one(run: Callable[[], object]) -> float:
    """Return the seconds that a run takes on all cores, as one thread computes it in its own seconds of the processor.

    Threads that wait for each other count as busy: on a busy machine two of them seemed ten times slower than one.
    """
    return _in_a_thread(lambda: _fastest(run, time.thread_time)) / torch.get_num_threads()


def _in_a_thread(measure: Callable[[], float]) -> float:
    """Return what is measured in a thread of its own, in which torch computes on one core."""
    with pool(1, "lorax-speed") as one:
        return one.submit(measure).result()


def _fastest(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of a run, by the fastest of several measurements."""
    run()  # the first time takes longer
    found = []
    for _ in range(TIMES):
        first, done = clock(), 0
        while clock() - first < EACH or not done:
            run()
            done += 1
        found.append((clock() - first) / done)
    return min(found)


def _share_of_a_core() -> float:
    """Return the share of a core that a thread gets now."""
    _, run = _product()
    began, first = time.perf_counter(), time.thread_time()
    while time.thread_time() - first < TIMES * EACH:
        run()
    return min(1.0, (time.thread_time() - first) / (time.perf_counter() - began))


def _share_of_cores() -> float:
    """Return the share of its cores that a job gets beside others, by the system's mean load of the last minute.

    On a busy machine a tenth of a second tells little of that: measured three times in a row it differed threefold. The load also
    counts what gives way to others, and what has ended since. So the mean of both is taken. Windows does not tell its load.
    """
    return min(1.0, (os.cpu_count() or 1) / (_load() + torch.get_num_threads()))


def _is_busy() -> bool:
    """Tell whether others compute on cores that torch would use."""
    return _load() + torch.get_num_threads() > (os.cpu_count() or 1) + 0.5


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _product() -> Made:
    matrix = torch.ones(512, 512, dtype=torch.float64)
    return 2.0 * 512**3, lambda: matrix @ matrix


def _block(device: torch.device, dtype: torch.dtype, channels: int) -> Made:
    """Return the operations of a block on a batch that is small for the device, and a function that computes it."""
    side, most = (8, 1e9) if device.type == "cpu" else (32, 2e11)
    positions = side**2
    one = 2.0 * channels**2 * (9 + 2) * positions + 4.0 * positions**2 * channels
    x = torch.ones(min(16, max(1, int(most / one))), channels, side, side, device=device, dtype=dtype)
    kernel = torch.ones(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = torch.ones(channels, channels, device=device, dtype=dtype)

    @torch.no_grad()
    def run() -> float:
        y = F.conv2d(F.silu(F.group_norm(x, 32)), kernel, padding=1)
        q = F.linear(y.flatten(2).mT, weight).view(len(x), positions, -1, 32).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
        return F.linear(attended, weight)[0, 0, 0].item()  # reading a value waits for the device

    return len(x) * one, run
