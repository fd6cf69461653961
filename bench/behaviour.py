"""``python -m bench.behaviour``: a dry run of bridge and refine from SD 1.5 to SDXL at full size: time and memory.

Two synthetic checkpoints (2.1 and 6.9 GB) are written into a temporary folder and opened one after the other, each in a process
of its own. What the methods have them do is measured once. How often they do it is counted by running them on models that
compute nothing; the whole time is the product. For a graphics card that is not at hand, operations are divided by what its data
sheet promises: that is arithmetic and no measurement.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import shutil
import tempfile
from pathlib import Path

import torch

from bench import running, stages
from bench.counting import counted
from bench.gauge import Reading
from bench.stages import Stage
from bench.tables import TITLES, memory, times, within
from lorax.devices import pick_device, precision
from lorax.methods import BRIDGE, REFINE
from lorax.options import Running

COUNTED = 24  # one in so many layers of a LoRA is enough to count with
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.behaviour", description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of UNets and text encoders; by default bfloat16 on a CPU")
    parser.add_argument("--pictures", type=int, help="by default what served best")
    parser.add_argument("--steps", type=int, help="of refine; by default what served best")
    parser.add_argument("--narrow", action="store_true", help="the same structures at a fraction of the size")
    parser.add_argument("--folder", type=Path, help="where the temporary files go; 9 GB must be free there")
    chosen = parser.parse_args(arguments)
    asked = Running(pictures=chosen.pictures, steps=chosen.steps)
    device = pick_device(chosen.device)
    dtype = DTYPES[chosen.dtype] if chosen.dtype else torch.bfloat16 if device.type == "cpu" else precision(device)
    pair = running.NARROW if chosen.narrow else running.FULL
    folder = Path(tempfile.mkdtemp(prefix="lorax-bench-", dir=chosen.folder))
    try:
        (folder / "narrow").mkdir()
        running.write(folder / "narrow", running.NARROW, 4, every=COUNTED)
        running.write(folder, pair, chosen.rank)
        print(f"torch {torch.__version__}, {device}, {dtype}, {torch.get_num_threads()} threads; LoRA of rank {chosen.rank}\n")
        found = {name: _measured(name, folder, device, dtype) for name in ("sd", "xl")}
        methods = {method: counted(folder / "narrow", method, pair.sizes, asked) for method in (BRIDGE, REFINE)}
    finally:
        shutil.rmtree(folder)
    for line in memory(found, methods):
        print(line)
    for method, idles in methods.items():
        for line in times(found, method, idles):
            print(line)
    for line in within(found, pair.sizes, asked):
        print(line)


def _measured(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Stage:
    """In a process of its own, which begins without anything in its memory."""
    print(f"| {TITLES[name]} | seconds | GB before | GB at most |\n| --- | --- | --- | --- |", flush=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, name, folder, device, dtype))
    process.start()
    sender.close()  # else the end of a process that failed would not be seen
    try:
        stage: Stage = receiver.recv()
    except EOFError:
        raise SystemExit("the process that measures has failed") from None
    process.join()
    print(flush=True)
    return stage


def _measure(
    sender: multiprocessing.connection.Connection, name: str, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    def show(reading: Reading) -> None:
        print(reading, flush=True)

    sender.send((stages.source if name == "sd" else stages.target)(folder, device, dtype, show))


if __name__ == "__main__":
    main()
