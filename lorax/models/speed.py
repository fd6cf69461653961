"""Measures how fast a device computes what models consist of, beside whatever else it does at the time."""

import math
import os
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

MEASURED = 0.12  # seconds
REMEMBERED = 60.0  # seconds; other work on the machine comes and goes
CHANNELS = 64  # widths are measured in multiples of it
_known: dict[tuple[object, ...], tuple[float, float]] = {}  # when it was measured, operations per second


def speed_of(device: torch.device, dtype: torch.dtype, width: float) -> float:
    """Return the operations per second of a block of a UNet of this width: a convolution, attention and linear layers."""
    channels = CHANNELS * max(1, round(width / CHANNELS))
    return _measured((device, dtype, channels), lambda: _block(device, dtype, channels), device.type != "cpu")


def speed_of_solving() -> float:
    """Return the operations per second of products in float64 on the CPU."""

    def product() -> tuple[float, Callable[[], object]]:
        matrix = torch.ones(512, 512, dtype=torch.float64)
        return 2.0 * 512**3, lambda: matrix @ matrix

    return _measured(("solving",), product)


def _measured(key: tuple[object, ...], make: Callable[[], tuple[float, Callable[[], object]]], on_card: bool = False) -> float:
    """Return a speed from operations and what does them. It is measured if it was not in the last minute."""
    if key in _known and time.monotonic() - _known[key][0] < REMEMBERED:
        return _known[key][1]
    operations, run = make()
    run()  # the first time takes longer
    clock = time.perf_counter if on_card else _seconds_of_cores
    began, first, done = time.perf_counter(), clock(), 0
    while time.perf_counter() - began < MEASURED or not done or clock() == first:
        run()
        done += 1
    taken, passed = clock() - first, time.perf_counter() - began
    share = 1.0 if on_card else math.sqrt(min(1.0, taken / passed) * _share_of_cores())
    _known[key] = time.monotonic(), share * operations * done / taken
    return _known[key][1]


def _seconds_of_cores() -> float:
    """Return the seconds that each of the cores on which torch computes has computed for this program."""
    return time.process_time() / torch.get_num_threads()


def _share_of_cores() -> float:
    """Return the share of its cores that a job gets beside others, by the system's mean load of the last minute.

    On a busy machine a tenth of a second tells little of that: measured three times in a row it differed threefold. The load also
    counts what gives way to others, and what has ended since. So the mean of both is taken. Windows does not tell its load.
    """
    if not hasattr(os, "getloadavg"):
        return 1.0
    return min(1.0, (os.cpu_count() or 1) / (os.getloadavg()[0] + torch.get_num_threads()))


def _block(device: torch.device, dtype: torch.dtype, channels: int) -> tuple[float, Callable[[], object]]:
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
