"""``python -m lab forecast``: fits what a transfer will be worth to what was known before it, and says how far off that is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lab.forecast import running, sentences, validation
from lab.forecast.examples import examples
from lab.forecast.sentences import Judged
from lab.forecast.validation import MEAN, Features
from lab.report.cells import Cells
from lab.results import Results
from lab.variants import AUTO, COPY
from lorax.transfer.forecast import FILE, value

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


def write(cells: Cells, findings: Path, models: Path) -> None:
    """``findings`` for ``lab report``, and ``models``, which ``lorax.transfer.forecast`` reads."""
    asked = [(variant, kind, related) for variant in (COPY, AUTO) for kind in CANDIDATES for related in (True, False)]
    judged = [one for each in asked if (one := _judge(cells, *each))]
    if not judged:
        sys.exit("too few transfers are measured for a forecast: needed are some of two pairs of relatives, or of strangers.")
    shown: dict[str, dict[str, Any]] = {}
    plots: dict[str, dict[str, Any]] = {}
    for one in judged:
        if one.kind == REPORT:
            shown.setdefault(one.variant, {})["related" if one.related else "unrelated"] = model_of(one)
        for fold, predicted in one.tested:
            points = plots.setdefault(f"{one.variant}-by-the-{one.kind}", {"predicted": [], "measured": [], "labels": []})
            points["predicted"] += _rounded(predicted)
            points["measured"] += _rounded(example.measured for example in fold.held)
            points["labels"] += [f"{one.group}, without {fold.bases}"] * len(predicted)
    ran = running.measured(cells)
    told = [
        *sentences.everything(judged),
        *sentences.strength(cells, examples(cells, COPY)),
        *running.sentences(ran),
    ]
    tables = [sentences.errors(judged), sentences.candidates(judged)]
    _write(findings, {"plots": plots, "sentences": told, "tables": tables})
    about = "written by python -m lab forecast from lab/results; read by lorax/forecast.py"
    _write(models, {"about": about, "methods": shown, "running": ran})


def model_of(judged: Judged) -> dict[str, Any]:
    """Fitted to all of the group, with the errors on bases left out; no more than the mean where that is no worse."""
    features = judged.features if judged.is_useful else MEAN
    model = validation.fit(judged.examples, features)
    off = [example.measured - model.predict(example.known) for example in judged.examples]
    if features:
        off = [one for fold, predicted in judged.tested for one in [example.measured for example in fold.held] - predicted]
    own, of_mean = judged.errors
    return {
        "intercept": model.intercept,
        "coefficients": dict(model.coefficients),
        "bounds": list(model.bounds),
        "ranges": _ranges(judged, features),
        "residuals": _rounded(np.quantile(off, (0.05, 0.95))),
        "validation": {
            "features": list(judged.features),
            "bases left out": len(own),
            "error": _rounded([own.mean()])[0] if len(own) else None,
            "error of mean": _rounded([of_mean.mean()])[0] if len(own) else None,
            "less": _rounded(dataclasses.astuple(judged.less)),
        },
        "pairs": len(judged.pairs),
        "transfers": len(judged.examples),
    }


def _ranges(judged: Judged, features: Features) -> dict[str, list[float]]:
    """Of what the forecast asks for, of similarity and coverage too; nothing is too similar, or too unlike, for its group."""
    names = {"similarity", "coverage", *(name for feature in features for name in feature.split("*"))}
    ranges = {name: [value(name, example.known) for example in judged.examples] for name in sorted(names)}
    ranges["similarity"].append(1.0 if judged.related else -1.0)
    return {name: [min(values), max(values)] for name, values in ranges.items()}


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
