"""Measures how fast a device computes what models consist of, beside whatever else it does at the time."""

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
    clock, share = (time.perf_counter, 1.0) if on_card else _clock()
    began, first, done = time.perf_counter(), clock(), 0
    while time.perf_counter() - began < MEASURED or not done or clock() == first:
        run()
        done += 1
    _known[key] = time.monotonic(), share * operations * done / (clock() - first)
    return _known[key][1]


def _clock() -> tuple[Callable[[], float], float]:
    """Return the clock by which a CPU is measured, and the share of its cores that a job gets beside others.

    On a busy machine a tenth of a second by the clock tells next to nothing: three measurements in a row differed threefold. So
    there the processor's own seconds count, and the system's mean of what ran in the last minute. Windows does not tell that.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if not hasattr(os, "getloadavg"):
        return time.perf_counter, 1.0
    return lambda: time.process_time() / threads, min(1.0, cores / (os.getloadavg()[0] + threads))


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
