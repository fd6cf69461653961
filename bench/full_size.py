"""A LoRA of rank 64 on all that kohya trains of SDXL, moved to SSD-1B, both of full size: time and memory.

``python -m bench.full_size`` writes two synthetic checkpoints (6.8 and 4.3 GB) into a temporary folder, moves the LoRA in a
process of its own on two cores, and prints how long that took and how much anonymous memory it had at most.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import torch

from tests import xl

CORES = 2
NOISE = 0.1  # of what was kept, relative to its spread
POOL = torch.randn((1 << 25) + 43, generator=torch.Generator().manual_seed(0)).half().repeat(3)  # no weight is above 2/3 of it
Tensor = tuple[str, tuple[int, ...]]


def drawn(name: str, size: int) -> torch.Tensor:
    """Values that look random, always the same for a name: a stretch of the pool."""
    start = crc32(name.encode()) % (len(POOL) // 3)
    return POOL[start : start + size]


def weight(name: str, shape: tuple[int, ...], noise: str = "") -> torch.Tensor:
    scale, size = max(1, math.prod(shape[1:])) ** -0.5, math.prod(shape)
    values = drawn(name, size) * scale
    return torch.add(values, drawn(noise, size), alpha=NOISE * scale) if noise else values


def write(path: Path, tensors: list[Tensor], prefix: str = "", own: str = "") -> None:
    """A safetensors file in half precision, one tensor after the other; of a relative, the UNet has noise on it.

    ``own``: what makes its values others than those of other files with these keys.
    """
    header, end = {}, 0
    for key, shape in tensors:
        begin, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in tensors:
            file.write(weight(own + key, shape, prefix + key if prefix and key.startswith(xl.UNET) else "").numpy().tobytes())


def checkpoint(size: xl.Size) -> list[Tensor]:
    """In Stability's layout."""
    first, second = size.text()
    with torch.device("meta"):
        tower = xl.open_clip({param.ldm: torch.empty(param.shape) for param in second})
    tensors = [(xl.UNET + param.ldm, param.shape) for param in size.unet()]
    tensors += [(xl.TE1 + param.ldm, param.shape) for param in first]
    return tensors + [(xl.TE2 + key, tuple(value.shape)) for key, value in tower.items()]


def lora(size: xl.Size, rank: int) -> Iterator[Tensor]:
    for layer in xl.trained(size):
        m, n, *_ = xl.layers(size)[layer].shape
        name = xl.spelled(layer, size, "kohya")
        yield from ((f"{name}.lora_up.weight", (m, rank)), (f"{name}.lora_down.weight", (rank, n)), (f"{name}.alpha", ()))


class Measured(NamedTuple):
    """Of a process: seconds, seconds of computing, and the most anonymous memory in bytes; None if the system does not tell."""

    seconds: float
    computing: float
    peak: int | None

    def __str__(self) -> str:
        memory = f"at most {self.peak / 1e9:.2f} GB of anonymous memory" if self.peak else "there is no /proc to tell the memory"
        return f"{self.seconds:.0f} s ({self.computing:.0f} s of computing), {memory}"


def measure(command: list[str]) -> Measured:
    """Measure a process, on two cores where the system lets them be chosen."""
    environment, began, peak, before = os.environ | {"OMP_NUM_THREADS": str(CORES)}, time.perf_counter(), 0, _computed()
    process = subprocess.Popen(command, env=environment, preexec_fn=_on_few_cores, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = status.read_text().splitlines() if status.exists() else []
        peak = max([peak, *(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))])
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the transfer failed with exit code {process.returncode}")
    return Measured(time.perf_counter() - began, _computed() - before, peak or None)


def _on_few_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _computed() -> float:
    """Seconds that processes which have ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="auto")
    parser.add_argument("--rank", type=int, default=64, help="of the LoRA")
    parser.add_argument("--narrow", action="store_true", help="the same structures at a fraction of the size")
    parser.add_argument("--folder", type=Path, help="where the temporary files go; 13 GB must be free there")
    chosen = parser.parse_args(arguments)
    source, target = (xl.XL, xl.SSD) if chosen.narrow else (xl.FULL, xl.FULL_SSD)
    folder = Path(tempfile.mkdtemp(prefix="lorax-bench-", dir=chosen.folder))
    try:
        write(folder / "sdxl.safetensors", checkpoint(source))
        write(folder / "ssd.safetensors", checkpoint(target), prefix="noise.")
        write(folder / "lora.safetensors", list(lora(source, chosen.rank)))
        command = [sys.executable, "-m", "lorax", "transfer", str(folder / "lora.safetensors"), "--method", chosen.method]
        command += ["--source", str(folder / "sdxl.safetensors"), "--target", str(folder / "ssd.safetensors"), "--device", "cpu"]
        measured = measure(command)
        layers = len(xl.trained(source))
        print(f"{layers} layers, rank {chosen.rank}, --method {chosen.method}, {CORES} cores:")
        print(measured)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
