"""Many LoRAs in one pass from SDXL to SSD-1B, all of full size: memory and time.

``python -m bench batch`` writes two synthetic checkpoints (6.8 and 4.3 GB) and LoRAs with tensors of their own (0.4 GB each at
rank 64) into a temporary folder. It moves one LoRA, then all, then one again, each time in a process of its own on two cores.
What one takes, and what it takes to read the other LoRAs and to write what became of them, is what the time of all is compared
with. 30 LoRAs need 42 GB of disk for the while.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file

from bench.full_size import CORES, Measured, Tensor, checkpoint, lora, measure, write
from bench.lines import Line, at_most
from tests import xl

MEMORY, TIME = 1.5, 1.3  # GB; times
ON_DISK = 2.25  # a LoRA, what becomes of it, and what is kept until that is written, in sizes of the LoRA


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench batch", description=__doc__.splitlines()[0])
    parser.add_argument("--loras", type=int, default=30, help="how many (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=64, help="of the LoRAs (default: %(default)s)")
    parser.add_argument("--method", default="auto", help="(default: %(default)s)")
    parser.add_argument("--part", type=int, default=1, help="divide all widths by this number (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go, by default the system's place")
    chosen = parser.parse_args(arguments)
    source, target = (_narrowed(size, chosen.part) for size in (xl.FULL, xl.FULL_SSD))
    folder = Path(tempfile.mkdtemp(prefix="lorax-bench-", dir=chosen.folder))
    tensors = [*checkpoint(source), *checkpoint(target)]
    needed = 2 * (_values(tensors) + ON_DISK * chosen.loras * _values(lora(source, chosen.rank)))
    try:
        if (free := shutil.disk_usage(folder).free) < needed:
            raise SystemExit(f"{folder}: needs {needed / 1e9:.0f} GB, and {free / 1e9:.0f} are free. Choose fewer --loras.")
        write(folder / "sdxl.safetensors", checkpoint(source))
        write(folder / "ssd.safetensors", checkpoint(target), prefix="noise.")
        loras = [folder / f"lora-{number}.safetensors" for number in range(chosen.loras)]
        for path in loras:
            write(path, list(lora(source, chosen.rank)), own=path.stem)
        print(f"{chosen.loras} LoRAs of rank {chosen.rank}, --method {chosen.method}, widths by {chosen.part}, {CORES} cores:")
        before = _moved(folder, loras[:1], chosen.method, "before")
        many = _moved(folder, loras, chosen.method, "moved")
        after = _moved(folder, loras[:1], chosen.method, "after")
        bare = _bare((path, folder / "moved" / f"{path.stem}-ssd.safetensors") for path in loras[1:])
    finally:
        shutil.rmtree(folder)
    for name, measured in (("one", before), ("all", many), ("one again", after)):
        print(f"{name}: {measured}")
    for line in _lines((before, after), many, bare):
        print(line)


def _narrowed(size: xl.Size, part: int) -> xl.Size:
    channels = tuple(width // part for width in size.channels)
    return dataclasses.replace(size, channels=channels, first=size.first // part, second=size.second // part)


def _values(tensors: Iterable[Tensor]) -> int:
    return sum(math.prod(shape) for _, shape in tensors)


def _moved(folder: Path, loras: list[Path], method: str, name: str) -> Measured:
    """What it took to move the LoRAs, which then are in the folder ``name``."""
    (folder / name).mkdir()
    command = [sys.executable, "-m", "lorax", "transfer", *map(str, loras), "--method", method, "--device", "cpu"]
    command += ["--source", str(folder / "sdxl.safetensors"), "--target", str(folder / "ssd.safetensors")]
    return measure([*command, "--output", str(folder / name)])


def _bare(files: Iterable[tuple[Path, Path]]) -> tuple[float, float]:
    """Seconds, and seconds of computing, to read each LoRA and to write what became of it so that the disk has it."""
    total = [0.0, 0.0]
    clocks = (time.perf_counter, time.process_time)
    for given, made in files:
        held, copy = load_file(made), made.with_suffix(".copy")
        held = {key: tensor.clone() for key, tensor in held.items()}
        began = [clock() for clock in clocks]
        for tensor in load_file(given).values():
            tensor.clone()
        save_file(held, copy)
        with copy.open("rb+") as stream:
            os.fsync(stream.fileno())
        total = [sum_ + clock() - start for sum_, clock, start in zip(total, clocks, began, strict=True)]
        copy.unlink()
    return total[0], total[1]


def _lines(one: tuple[Measured, Measured], many: Measured, bare: tuple[float, float]) -> Iterable[Line]:
    if many.peak:
        least = min(measured.peak or 0 for measured in one)
        yield at_most("peak of anonymous memory", many.peak / 1e9, MEMORY, "GB", f"{least / 1e9:.2f} GB with one LoRA")
    seconds, computing = (sum(kind) / 2 for kind in list(zip(*one, strict=True))[:2])
    for name, value, alone, files in (
        ("time", many.seconds, seconds, bare[0]),
        ("the same, in seconds of computing", many.computing, computing, bare[1]),
    ):
        note = f"{value:.0f} s; {alone:.0f} s with one LoRA, {files:.0f} s to read and write the others"
        yield at_most(f"{name}, against one LoRA and bare reading and writing", value / (alone + files), TIME, "times", note)


if __name__ == "__main__":
    main()
