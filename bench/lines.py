"""What the bench says: each line is a measured figure, and what it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.layers import BASES, Layers, Shape
from bench.measure import Clock, error, full_svd, move, peak_memory, read, seconds, spectra
from bench.synthetic import Relatives
from lorax.options import Options

QUICK: tuple[Shape, ...] = ((640, 640), (1280, 1280), (10240, 1280), (1280, 5120))
WIDEST: Shape = (1280, 23040)  # the largest layer of SD 1.5, a convolution
EACH = max(2, torch.get_num_threads())  # layers of a shape that are moved to find the time of one: as many as side by side
SMALL: Shape = (64, 64)
FIXED: dict[str, Any] = {"rank": "25%", "threshold": 0.0}  # with which nothing of the source is needed


@dataclass(frozen=True)
class Line:
    """``goal``: a bound, and on which side of it the value should be."""

    name: str
    value: float
    unit: str
    goal: str = ""
    holds: bool | None = None
    note: str = ""

    def __str__(self) -> str:
        verdict = {None: "", True: f" (goal: {self.goal})", False: f" (MISSED, goal: {self.goal})"}[self.holds]
        return f"{self.name}: {self.value:.3g} {self.unit}{verdict}{f'; {self.note}' if self.note else ''}"


def at_least(name: str, value: float, bound: float, note: str = "") -> Line:
    return Line(name, value, "times", f"at least {bound:g}", value >= bound, note)


def at_most(name: str, value: float, bound: float, unit: str, note: str = "") -> Line:
    return Line(name, value, unit, f"at most {bound:g}", value <= bound, note)


class Times(NamedTuple):
    """Seconds for one layer, which stands for all of its shape."""

    svd: float  # full SVD of both bases
    spectra: float  # both bases' singular values alone, without which the default rank is not known
    cold: float  # lorax at default options
    fixed: float  # lorax with FIXED
    warm: float  # lorax at default options, with what another adapter left in the cache
    ten: float  # ten adapters in one pass


def lines(folder: Path, device: str, quick: bool, repeats: int, clock: Clock) -> Iterator[Line]:
    every = {shape for layers in BASES.values() for shape in layers.values()}
    shapes = sorted(QUICK if quick else every)
    relatives = Relatives.make(folder, {*shapes, SMALL, WIDEST, (10240, 1280)})
    times = {shape: times_of(relatives, shape, device, folder / "cache", repeats, clock) for shape in shapes}
    on = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else torch.cuda.get_device_name()
    for name, layers in BASES.items():
        counts = Counter(shape for shape in layers.values() if shape in times)
        if quick and name == "SD 1.5":
            continue
        total = Times(*(sum(count * times[shape][i] for shape, count in counts.items()) for i in range(len(Times._fields))))
        of = f"{counts.total()} of {len(layers)} layers: {len(counts)} shapes timed, scaled by their counts; {on}"
        yield at_least(
            f"{name}: full SVD of both, against lorax", total.svd / total.cold, 10, _seconds(total.svd, total.cold, of)
        )
        most = total.svd / total.spectra
        yield Line(
            f"{name}: the same if nothing but both spectra were computed", most, "times", note=_seconds(total.svd, total.spectra)
        )
        name_fixed = f"{name}: full SVD of both, against lorax --rank 25% --threshold 0"
        yield at_least(name_fixed, total.svd / total.fixed, 10, _seconds(total.svd, total.fixed))
        yield at_least(f"{name}: lorax, cold against warm", total.cold / total.warm, 10, _seconds(total.cold, total.warm))
        yield at_most(
            f"{name}: lorax, ten LoRAs against one", total.ten / total.cold, 1.5, "times", _seconds(total.ten, total.cold)
        )
    yield from decompositions(device, repeats, clock)
    largest = max(error(relatives, shape, device) for shape in shapes)
    yield at_most("largest error of the transferred delta", largest, 1e-3, "of its norm", "lorax, against float64 throughout")
    touched = {layer: shape for layer, shape in BASES["SDXL"].items() if shape in times}
    yield from against_reading(relatives, touched, device, repeats, clock)
    yield memory(relatives, device)


def decompositions(device: str, repeats: int, clock: Clock) -> Iterator[Line]:
    """What bounds a projection: of a square matrix in float32, by how many products it is decomposed."""
    A = torch.randn(1280, 1280, device=device)
    product = seconds(lambda: (A @ A).norm().item(), repeats + 2, clock)
    steps = (
        ("eigenvectors", torch.linalg.eigh),
        ("eigenvalues", lambda A: [torch.linalg.eigvalsh(A)]),
        ("full SVD", torch.linalg.svd),
    )
    for name, decompose in steps:
        taken = seconds(lambda decompose=decompose: decompose(A)[0].norm().item(), repeats, clock)  # type: ignore[misc]
        yield Line(f"{name} of 1280 x 1280", taken / product, "matrix products", note=_seconds(taken, product))


def times_of(relatives: Relatives, shape: Shape, device: str, cache: Path, repeats: int, clock: Clock) -> Times:
    """A small layer stands for the component by which bases are judged, as the sample of it is not what is timed."""
    layers = {"unet.small": SMALL} | {f"te1.{number}": shape for number in range(EACH)}

    def one(adapters: int = 1, cache: Path | None = None, **settings: Any) -> float:
        options = Options("lorax", device=device, **settings)
        return seconds(lambda: move(relatives, layers, options, adapters=adapters, cache=cache), repeats, clock) / EACH

    svd, cold, fixed = seconds(lambda: full_svd(relatives, shape, device), repeats, clock), one(), one(**FIXED)
    values = seconds(lambda: spectra(relatives, shape, device, EACH), repeats, clock) / EACH
    move(relatives, layers, Options("lorax", device=device), rank=4, cache=cache)
    return Times(svd, values, cold, fixed, warm=one(cache=cache), ten=one(adapters=10))


def against_reading(relatives: Relatives, layers: Layers, device: str, repeats: int, clock: Clock) -> Iterator[Line]:
    read(relatives, layers)
    reading = seconds(lambda: read(relatives, layers), repeats + 1, clock)
    for method in ("copy", "auto"):
        options = Options(method, device=device)
        moving = seconds(lambda options=options: move(relatives, layers, options), repeats + 1, clock)  # type: ignore[misc]
        note = _seconds(moving, reading, f"{len(layers)} layers, from the page cache")
        yield at_most(f"SDXL: {method}, against reading once what it touches", moving / reading, 1.5, "times", note)


def memory(relatives: Relatives, device: str) -> Line:
    if device == "cpu":
        layers = {f"unet.{number}": shape for number, shape in enumerate([WIDEST] * 2 + [(10240, 1280)] * 4)}
        peak = peak_memory(relatives, layers) / 1e9
        return at_most("peak of anonymous memory", peak, 1.5, "GB", "lorax on the widest layers of SD 1.5 and SDXL")
    return at_most("peak of device memory", torch.cuda.max_memory_allocated() / 1e9, 2.0, "GB")


def _seconds(one: float, other: float, more: str = "") -> str:
    return f"{one:.3g} s and {other:.3g} s" + (f"; {more}" if more else "")
