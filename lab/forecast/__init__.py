"""``python -m lab forecast``: fits what a transfer will be worth to what was known before it, and says how far off that is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lab.forecast import sentences, validation
from lab.forecast.examples import Example, examples
from lab.forecast.sentences import Judged
from lab.forecast.validation import Features
from lab.report.cells import Cells
from lab.results import Results
from lab.variants import AUTO, COPY
from lorax.forecast import FILE, are_alike, value

REPORT, PROBE = "report", "probe"
CANDIDATES: dict[str, tuple[Features, ...]] = {
    REPORT: (
        ("similarity",),
        *(("related", f"related*{name}") for name in ("similarity", "lowest", "coverage", "kept", "overlap")),
        ("related", "related*similarity", "related*overlap"),
        ("related", "related*coverage", "related*overlap"),
    ),
    PROBE: (
        ("r2",),
        ("cosine",),
        ("gain",),
        ("best gain",),
        ("r2", "gain"),
        *(("related", f"related*{name}") for name in ("r2", "cosine", "gain", "best gain", "supply")),
        ("related", "related*supply", "related*supply*supply"),
        ("related", "related*gain", "related*overlap"),
    ),
}


def forecast(options: argparse.Namespace) -> None:
    """Fit and validate forecasts on the stored results; write what the report and what lorax tell of them."""
    write(Cells(Results(options.results)), options.results / "forecast.json", FILE)
    print(options.results / "forecast.json", FILE, sep="\n")


def write(cells: Cells, findings: Path, models: Path) -> None:
    """``findings`` for ``lab report``, and ``models``, which ``lorax.forecast`` reads."""
    judged = [one for variant in (COPY, AUTO) for kind in CANDIDATES if (one := _judge(cells, variant, kind))]
    if not judged:
        sys.exit("too few transfers are measured for a forecast: needed are some from and to two bases at least.")
    shown = {one.variant: model_of(one.examples, one.candidates) for one in judged if one.kind == REPORT}
    plots = {f"{one.variant} by the {one.kind}".replace(" ", "-"): _points(one) for one in judged}
    told = [*sentences.everything(judged), *sentences.strength(cells, examples(cells, COPY))]
    tables = [sentences.errors(judged), sentences.candidates(judged)]
    _write(findings, {"plots": plots, "sentences": told, "tables": tables})
    _write(models, {"about": "written by python -m lab forecast from lab/results; read by lorax/forecast.py", "methods": shown})


def model_of(measured: list[Example], candidates: tuple[Features, ...]) -> dict[str, Any]:
    """Fitted to all, with the errors that it makes on targets left out."""
    features = validation.choose(measured, candidates)
    model = validation.fit(measured, features)
    predicted = validation.left_out(measured, validation.chosen(candidates), validation.target)
    of_mean = validation.errors(measured, validation.of(validation.MEAN), validation.target)
    residuals = np.array([example.measured for example in measured]) - predicted
    groups = {}
    for name, related in (("related", True), ("unrelated", False)):
        chosen = [i for i, example in enumerate(measured) if are_alike(example.known) is related]
        if chosen:
            ranges = _ranges([measured[i] for i in chosen], features, related)
            groups[name] = {"ranges": ranges, "residuals": _rounded(np.quantile(residuals[chosen], (0.05, 0.95)))}
            groups[name]["error"] = _rounded([np.abs(residuals[chosen]).mean()])[0]
    return {
        "intercept": model.intercept,
        "coefficients": dict(model.coefficients),
        "bounds": list(model.bounds),
        "error": _rounded([np.abs(residuals).mean()])[0],
        "error_of_mean": _rounded([of_mean.mean()])[0],
        "pairs": len({(example.source, example.target) for example in measured}),
        "transfers": len(measured),
        "groups": groups,
    }


def _ranges(measured: list[Example], features: Features, related: bool) -> dict[str, list[float]]:
    """Of what the forecast asks for, of similarity and coverage too; nothing is too similar, or too unlike, for its group."""
    names = {"similarity", "coverage", *(name for feature in features for name in feature.split("*"))} - {"related"}
    ranges = {name: [value(name, example.known) for example in measured] for name in sorted(names)}
    ranges["similarity"].append(1.0 if related else -1.0)
    return {name: [min(values), max(values)] for name, values in ranges.items()}


def _judge(cells: Cells, variant: str, kind: str) -> Judged | None:
    """None where too little is measured to leave something out, or to know what the candidates ask for."""
    candidates = CANDIDATES[kind]
    asked = {name for features in candidates for feature in features for name in feature.split("*")} - {"related"}
    measured = [example for example in examples(cells, variant) if asked <= set(example.known)]
    bases = [{by(example) for example in measured} for by in (validation.target, validation.source)]
    return Judged(variant, kind, candidates, measured) if min(map(len, bases)) > 1 else None


def _points(judged: Judged) -> dict[str, Any]:
    """Each transfer by the model that has not seen its target."""
    return {
        "predicted": _rounded(judged.predicted),
        "measured": _rounded([example.measured for example in judged.examples]),
        "labels": [f"to {example.target}" for example in judged.examples],
    }


def _rounded(values: Any) -> list[float]:
    return [round(float(one), 4) for one in values]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
