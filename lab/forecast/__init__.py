"""``python -m lab forecast``: fits what a transfer will be worth to what was known before it, and says how far off that is.

lorax forecasts the range of what was measured in a group, whatever a fit would add: the fits stay in the lab.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lab.forecast import running, sentences, validation
from lab.forecast.examples import examples
from lab.forecast.model import value
from lab.forecast.sentences import Judged
from lab.forecast.validation import MEAN, Features
from lab.report.cells import Cells
from lab.results import Results
from lab.variants import AUTO, COPY
from lorax.transfer.forecast import FILE

REPORT, PROBE = "report", "probe"
CANDIDATES: dict[str, tuple[Features, ...]] = {
    REPORT: (
        *((name,) for name in ("similarity", "lowest", "coverage", "kept", "overlap")),
        ("similarity", "overlap"),
        ("coverage", "overlap"),
    ),
    PROBE: (
        *((name,) for name in ("r2", "cosine", "gain", "best gain", "supply")),
        ("r2", "gain"),
        ("supply", "supply*supply"),
        ("gain", "overlap"),
    ),
}


def forecast(options: argparse.Namespace) -> None:
    """Fit and validate forecasts on the stored results; write what the report and what lorax tell of them."""
    write(Cells(Results(options.results)), options.results / "forecast.json", FILE)
    print(options.results / "forecast.json", FILE, sep="\n")


def write(cells: Cells, findings: Path, shipped: Path) -> None:
    """Write ``findings`` for ``lab report``, and ``shipped``, which ``lorax.transfer.forecast`` reads."""
    asked = [(variant, kind, related) for variant in (COPY, AUTO) for kind in CANDIDATES for related in (True, False)]
    judged = [one for each in asked if (one := _judge(cells, *each))]
    if not judged:
        sys.exit("too few transfers are measured for a forecast: needed are some of two pairs of relatives, or of strangers.")
    weights: dict[str, dict[str, Any]] = {}
    plots: dict[str, dict[str, Any]] = {}
    for one in judged:
        if one.kind == REPORT:
            weights.setdefault(one.variant, {})["related" if one.related else "unrelated"] = group_of(one)
        for fold, predicted in one.tested:
            points = plots.setdefault(f"{one.variant}-by-the-{one.kind}", {"predicted": [], "measured": [], "labels": []})
            points["predicted"] += _rounded(predicted)
            points["measured"] += _rounded(example.measured for example in fold.held)
            points["labels"] += [f"{one.group}, without {fold.bases}"] * len(predicted)
    told = [
        *sentences.everything(judged),
        *sentences.strength(cells, examples(cells, COPY)),
        *running.sentences(running.measured(cells)),
    ]
    tables = [sentences.errors(judged), sentences.candidates(judged)]
    _write(findings, {"plots": plots, "sentences": told, "tables": tables})
    about = "written by python -m lab forecast from lab/results; read by lorax/transfer/forecast.py"
    _write(shipped, {"about": about, "weights": weights})


def group_of(judged: Judged) -> dict[str, Any]:
    """Describe what was measured of a group of transfers: nine of ten lie within ``low`` and ``high``.

    ``similarity`` and ``coverage`` are the ranges within which that holds. Nothing is too similar for relatives, or too unlike
    for strangers.
    """
    mean = validation.fit(judged.examples, MEAN).intercept
    low, high = _rounded(np.quantile([example.measured - mean for example in judged.examples], (0.05, 0.95)))
    ranges = {name: [value(name, example.known) for example in judged.examples] for name in ("similarity", "coverage")}
    ranges["similarity"].append(1.0 if judged.related else -1.0)
    return {
        "mean": mean,
        "low": mean + low,
        "high": mean + high,
        **{name: [min(values), max(values)] for name, values in ranges.items()},
        "pairs": len(judged.pairs),
        "transfers": len(judged.examples),
    }


def _judge(cells: Cells, variant: str, kind: str, related: bool) -> Judged | None:
    """None where less than two pairs are measured, or known what the candidates ask for."""
    candidates = CANDIDATES[kind]
    asked = {"similarity", *(name for features in candidates for feature in features for name in feature.split("*"))}
    measured = [one for one in examples(cells, variant) if one.related is related and asked <= set(one.known)]
    judged = Judged(variant, kind, related, candidates, measured)
    return judged if len(judged.pairs) > 1 else None


def _rounded(values: Any) -> list[float]:
    return [round(float(one), 4) for one in values]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
