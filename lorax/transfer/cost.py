"""Estimates the time and memory of bridge and refine, before a model is opened.

The number of runs follows from the methods' constants, and the operations of a run from the bases' headers. The speed of the
device is measured; ``EFFICIENCY`` is the share of it that these models reach (docs/behaviour.md).
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from lorax.checkpoint import component_of
from lorax.devices import pick_device, precision
from lorax.methods import BRIDGE, bridge, refine
from lorax.models import Operations, operations, sampling, training
from lorax.options import Running
from lorax.transfer.assignment import assignments
from lorax.transfer.expected import Cost
from lorax.transfer.planning import Plan

EFFICIENCY = 0.8  # speed of a wide model, relative to a large matrix product; half of that at the width NARROW
NARROW = 80
SOLVING = 0.7  # speed of regressions, relative to a large matrix product
BACKWARD = 2  # operations of a backward pass, in forward passes
EIGEN = 10  # operations of an eigendecomposition, in cubes of the size
HELD = 3  # values in memory at a time, relative to those of the largest layer, or of a block's layers together
STATES = 6  # copies of a trained factor: itself, its gradient, AdamW's two moments, the average, and the best average
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Work:
    """The work of one model, in samples."""

    predicted: int  # by the UNet
    encoded: int  # by the text encoders
    at_once: int  # the largest batch of the UNet
    decoded: int = 0  # by the autoencoder
    read: int = 0  # encoded by the autoencoder
    trained: int = 0  # the part of ``predicted`` that has a backward pass

    def __add__(self, other: "Work") -> "Work":
        """Return the work of doing one after the other."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return Work(**sums | {"at_once": max(self.at_once, other.at_once)})


def estimate(plan: Plan, method: str | None = None, *, related: bool = False) -> Cost:
    """Estimate the cost of moving one adapter by the plan's method or another, if no training stops early."""
    method, device = method or plan.options.method, pick_device(plan.options.device)
    dtype = precision(device)
    rate, models = rate_of(device, dtype), (operations(plan.source), operations(plan.target))
    assigned = assignments(plan)
    of_text = any(component_of(target) != "unet" for target in assigned)
    outs = [models[0].layers[one.source].out for one in assigned.values()]
    shapes = [(layer.out, layer.channels * layer.taps) for layer in map(models[1].layers.__getitem__, assigned)]
    if method == BRIDGE:
        works = works_of_bridge(plan.running, *models, of_text)
        stored = 2 * torch.half.itemsize * sum(outs)  # bytes for a point
        rows = bridge.points_for(sum(outs))
        solved = sum(solving(rows, m_s, m, n) for m_s, (m, n) in zip(outs, shapes, strict=True))
        seconds = solved / SOLVING / rate_of(torch.device("cpu"), torch.float64)
        held = rows * stored if device.type == "cpu" else 0
    else:
        works = works_of_refine(plan.running, *models, of_text, related)
        factors = sum(one.rank * (m + n) for one, (m, n) in zip(assigned.values(), shapes, strict=True))
        seconds, held = 0.0, STATES * FLOAT * factors
    seconds += sum(_seconds(work, of, rate, of_text) for work, of in zip(works, models, strict=True))
    return Cost(seconds, held + max(_bytes(work, of, dtype) for work, of in zip(works, models, strict=True)), device.type)


def total(costs: Iterable[Cost]) -> Cost:
    """Return the cost of moving several adapters one after the other."""
    found = list(costs)
    return Cost(sum(one.seconds for one in found), max(one.bytes for one in found), found[0].device)


def works_of_bridge(running: Running, source: Operations, target: Operations, of_text: bool) -> tuple[Work, Work]:
    """Return the work of the source and of the target. ``of_text``: whether the adapter has layers of text encoders."""
    count = bridge.pictures_seen(running.pictures, max(source.size, target.size))
    both = Work(2 * count, 2 * count, 2 * count, read=count)  # with the adapter and without it, in one batch
    scaling = _training(count, bridge.SCALING_STEPS, target, of_text)
    return _drawing(count, source) + both, both + scaling


def works_of_refine(running: Running, source: Operations, target: Operations, of_text: bool, related: bool) -> tuple[Work, Work]:
    """Return the work of the source and of the target, as ``works_of_bridge`` does."""
    steps = refine.steps_of(running.steps, related)
    reading = Work(0, 0, 0, read=running.pictures)
    return _drawing(running.pictures, source), _training(running.pictures, steps, target, of_text) + reading


@lru_cache
def rate_of(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations per second of a matrix product, for 0.3 seconds."""
    size = 512 if device.type == "cpu" else 4096
    matrix, done = torch.ones(size, size, device=device, dtype=dtype), 0
    (matrix @ matrix)[0, 0].item()  # the first product takes longer; reading a value waits for the device
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < 0.3:
        (matrix @ matrix)[0, 0].item()
        done += 1
    return 2.0 * size**3 * done / passed


def _drawing(count: int, of: Operations) -> Work:
    """Return the work of drawing pictures: each step predicts with the caption and without it."""
    return Work(2 * sampling.STEPS * count, 2 * count, _at_once(count, of), decoded=count)


def _training(pictures: int, steps: int, of: Operations, of_text: bool) -> Work:
    """Return the work of a training that does not stop early."""
    held_out = math.ceil(pictures / training.HELD_OUT)
    judged, batch = training.REPEATS * held_out, min(training.BATCH, pictures - held_out)
    validations, trained = 1 + math.ceil(steps / training.VALIDATE_EVERY), steps * batch
    predicted = validations * judged + trained
    encoded = pictures if _at_once(2, of) == 1 and not of_text else predicted  # see ``lorax.models.prompts``
    return Work(predicted, encoded, max(_at_once(judged, of), _at_once(batch, of, training.BATCH)), trained=trained)


def _at_once(count: int, of: Operations, most: int = 64) -> int:
    return min(count, sampling.batch_size(most, of.size))


def _seconds(work: Work, of: Operations, rate: float, of_text: bool) -> float:
    forward = work.predicted * of.predict + work.encoded * of.encode + work.decoded * of.decode + work.read * of.read
    again = BACKWARD + (of.size > training.LARGE)  # blocks of a large model are recomputed
    backward = work.trained * (again * of.predict + BACKWARD * of.encode * of_text)
    return (forward + backward) * (1 + NARROW / of.width) / (EFFICIENCY * rate)


def solving(rows: int, m_s: int, m: int, n: int) -> float:
    """Estimate the operations of ``bridge.solve`` for a source layer (m_s, ...) and a target layer (m, n)."""
    k = min(rows, m)
    cut = 2.0 * rows * n * m + 2.0 * k * k * max(rows, m) + EIGEN * k**3
    return regression(rows, m_s, m) + regression(rows, n, m) + cut


def regression(rows: int, n: int, m: int) -> float:
    """Estimate the operations of ``bridge.ridge`` from n columns to m: two Gram matrices, and a solution for each lambda."""
    k, solutions = min(rows, n), len(bridge.RIDGES) + 1
    applied = rows if n > rows else 2 * bridge.HELD_OUT * rows
    return 4.0 * k * k * max(rows, n) + solutions * (k**3 / 3 + 2.0 * k * k * m + 2.0 * applied * n * m)


def _bytes(work: Work, of: Operations, dtype: torch.dtype) -> int:
    """Estimate the bytes of the weights and of the values between layers; of one block if a backward pass recomputes blocks."""
    width = dtype.itemsize
    layers = [layer.values for layer in of.layers.values()]
    held = HELD * work.at_once * max(layers)
    if work.trained:
        at_once = _at_once(training.BATCH, of, training.BATCH)
        held = max(held, at_once * sum(layers) * HELD // (2 if of.size <= training.LARGE else 8))
    return width * (of.parameters + held)
