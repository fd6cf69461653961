"""Time against number of layers, rank of the adapter and number of adapters, for ``lorax`` and, where it matters, a copy."""

from __future__ import annotations

from pathlib import Path

from bench.measure import Clock, full_svd, move, seconds
from bench.synthetic import Relatives
from lorax.options import Options

SHAPE = (640, 640)


def plot(folder: Path, device: str, quick: bool, path: Path, clock: Clock) -> None:
    """Three panels, for layers of one shape."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    relatives, most, repeats = Relatives.make(folder, [SHAPE]), 8 if quick else 64, 1 if quick else 3
    panels = {
        "layers": [(n, {"layers": n}) for n in (most // 4, most // 2, most)],
        "rank of the LoRA": [(n, {"rank": n}) for n in (8, 32, 128)],
        "LoRAs in one pass": [(n, {"adapters": n}) for n in (1, 5, 10)],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, panels.items(), strict=True):
        for method in ("lorax", "copy"):
            times = [_time(relatives, method, device, repeats, clock, **{"layers": most, **given}) for _, given in points]
            axis.plot([x for x, _ in points], times, "o-", label=method)
        axis.set_xlabel(name)
    one = seconds(lambda: full_svd(relatives, SHAPE, device), repeats, clock)
    axes[0].plot([x for x, _ in panels["layers"]], [x * one for x, _ in panels["layers"]], "--", label="full SVD of both")
    axes[0].set_ylabel("seconds")
    axes[0].set_yscale("log")
    axes[0].legend()
    figure.suptitle(f"Layers of {SHAPE[0]} x {SHAPE[1]}; {most} of them, rank 32, one LoRA where not said otherwise")
    figure.savefig(path, dpi=110, pil_kwargs={"lossless": True, "method": 6})


def _time(
    relatives: Relatives,
    method: str,
    device: str,
    repeats: int,
    clock: Clock,
    layers: int,
    rank: int = 32,
    adapters: int = 1,
) -> float:
    named, options = {f"unet.{number}": SHAPE for number in range(layers)}, Options(method, device=device)
    return seconds(lambda: move(relatives, named, options, rank=rank, adapters=adapters), repeats, clock)
