"""Runs a step on several targets side by side, each in a process of its own: small models use one core better than many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def side_by_side(step: str, targets: Sequence[str], results: Path) -> None:
    """Run ``python -m lab STEP`` on each target, the first ones first. Exits if one fails, after the others have ended."""
    cores = os.cpu_count() or 1
    at_once = min(cores, len(targets))
    environment = os.environ | {"OMP_NUM_THREADS": str(cores // at_once)}

    def failed(target: str) -> bool:
        command = [sys.executable, "-m", "lab", step, "--target", target, "--results", str(results)]
        return subprocess.run(command, env=environment).returncode != 0

    with ThreadPoolExecutor(at_once) as processes:
        if lost := [target for target, is_lost in zip(targets, processes.map(failed, targets), strict=True) if is_lost]:
            sys.exit(f"lab {step} failed on {' and '.join(lost)}; what it said is above. Run it again: what is measured is kept.")
