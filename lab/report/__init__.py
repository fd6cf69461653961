"""From stored results to figures and findings: the steps ``summary``, ``report`` and ``compare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from lab.paths import DOCS, RESULTS
from lab.quotes import quote
from lab.report import methods, page
from lab.report.cells import Cells
from lab.report.records import records, show
from lab.report.rerun import differences, distances
from lab.results import Results

FINDINGS = DOCS / "findings.md"


def print_summary(options: argparse.Namespace, by_pictures: Sequence[dict[str, Any]] = ()) -> None:
    """Print every measured figure: gain recovery with its interval, difference to a copy, harm. JSON has ``by_pictures`` too."""
    found = records(_stored(options.results))
    show([*found, *by_pictures] if options.json else found, options.json)


def report(options: argparse.Namespace) -> None:
    """Write docs/findings.md with its plots, and what docs/methods.md quotes of it, from the stored results."""
    cells = _stored(options.results)
    page.write(cells, FINDINGS)
    quote(DOCS / "methods.md", "report", methods.comparison(cells))
    print(FINDINGS)


def print_comparison(options: argparse.Namespace, by_pictures: Callable[[Path], tuple[list[str], list[float]]]) -> None:
    """Compare a rerun of the headline with the committed results; exit code 1 if it says anything else.

    ``by_pictures`` tells of a rerun's folder what its pictures say otherwise, and by how much each frontier differs.
    """
    committed, rerun = _stored(RESULTS), _stored(options.results)
    said, seen = by_pictures(options.results)
    found = [*differences(committed, rerun), *said]
    print("\n".join(found) or "The rerun says what the committed results say.")
    for what, apart in (("recoveries at strength 1", distances(committed, rerun)), ("frontiers", seen)):
        if apart:
            print(f"{len(apart)} {what} differ by {fmean(apart):.4f} on average, and by {max(apart):.3f} at most.")
    sys.exit(1 if found else 0)


def _stored(folder: Path) -> Cells:
    torch.set_num_threads(1)  # of thousands of small products, several threads compute none sooner
    results = Results(folder)
    if not results.losses:
        sys.exit(f"{folder}: nothing measured is stored there; `python -m lab sweep` measures.")
    return Cells(results)
