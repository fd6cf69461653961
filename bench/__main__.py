"""``python -m bench``: speed and memory of transfers as ratios, on the layers of SD 1.5, SDXL and SSD-1B, with synthetic weights.

Everything in a line is measured side by side in one run, so lines of different machines compare. Other work on the machine
blurs them: ``--repeat`` takes the fastest of several, and ``--cpu-time`` counts the seconds that the processors worked, whatever
else they did; what is gained by working side by side is not in it. Each target is its source with noise, a relative.
``python -m bench batch`` is about many LoRAs in one pass, and ``python -m bench library`` about a folder of thousands.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from bench import batch, library
from bench.lines import lines
from bench.plots import plot
from lorax.devices import pick_device


def main() -> None:
    for name, bench in (("batch", batch), ("library", library)):
        if sys.argv[1:2] == [name]:
            bench.main(sys.argv[2:])
            return
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some shapes of SDXL and SSD-1B only, in less than a minute")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="take the fastest of N (default: %(default)s)")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds, not seconds")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-output"), metavar="DIR", help="for the plot (default: %(default)s)"
    )
    options = parser.parse_args()
    device, found = pick_device(options.device).type, []
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(Path(folder), device, options.quick, options.repeat, clock):
            found.append(line)
            if not options.json:
                print(line, flush=True)
        options.output.mkdir(parents=True, exist_ok=True)
        plot(Path(folder), device, options.quick, options.output / "performance.webp", clock)
    if options.json:
        print(json.dumps([dataclasses.asdict(line) for line in found], indent=2))
    else:
        print(f"wrote {options.output / 'performance.webp'}")


if __name__ == "__main__":
    main()
