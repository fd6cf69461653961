"""Runs the campaign in processes of bounded memory and prints what became of the files."""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.pool import Pool
from tests.attack.seeds import Kept


@dataclass
class Tally:
    """What became of the files of one reader."""

    files: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    megabytes: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--campaign", default="0", help="another word makes other files")
    parser.add_argument("--only", default="", help="readers whose name has this in it")
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to see one again")
    options = parser.parse_args()
    tallies, violations = dict[str, Tally](), list[str]()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        kept = Kept(Path(folder) / "seeds")
        kept.seeds = [seed for seed in kept.seeds if options.only in seed.name]
        pool = Pool(kept, options.campaign, Path(folder), iter(range(options.first, options.first + options.files)))
        for _ in range(options.processes):
            pool.start()
        for number, (name, end, what, seconds, megabytes) in pool.ends():
            tally = tallies.setdefault(name, Tally())
            tally.files += 1
            tally.seconds, tally.megabytes = max(tally.seconds, seconds), max(tally.megabytes, megabytes)
            tally.ends[end] += 1
            if end == "violation":
                violations.append(f"{number} {name}: {what}")
                print(violations[-1], flush=True)
            done = sum(one.files for one in tallies.values())
            if done % 500 == 0:
                print(f"{done} files", file=sys.stderr, flush=True)
    _print(tallies, violations)
    return 1 if violations else 0


def _print(tallies: dict[str, Tally], violations: list[str]) -> None:
    print(f"{'reader':42}{'files':>7}{'errors':>8}{'results':>9}{'violations':>12}{'worst s':>9}{'worst MB':>10}")
    whole = Tally()
    for name, tally in sorted(tallies.items()):
        _print_row(name, tally)
        whole.files += tally.files
        whole.ends += tally.ends
        whole.seconds, whole.megabytes = max(whole.seconds, tally.seconds), max(whole.megabytes, tally.megabytes)
    _print_row("all", whole)
    kinds = Counter(re.sub(r"^\d+ [^:]*: |\d+", "", line)[:160] for line in violations)
    for kind, count in kinds.most_common():
        print(f"{count} x {kind}")


def _print_row(name: str, tally: Tally) -> None:
    ends = tally.ends
    counts = f"{tally.files:>7}{ends['error']:>8}{ends['result']:>9}{ends['violation']:>12}"
    print(f"{name:42}{counts}{tally.seconds:>9.1f}{tally.megabytes:>10.0f}")


if __name__ == "__main__":
    sys.exit(main())
