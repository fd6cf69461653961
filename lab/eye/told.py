"""What ``lorax`` tells of the methods that run the models: how much of a style was seen, by the kind of pair."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from lab.eye.figures import figures
from lab.results import Results
from lab.stats import of_pairs
from lab.zoo import REPORTING, kind_of
from lorax.methods import runs_models
from lorax.transfer.forecast import SEEN

ABOUT = "written by python -m lab seen from lab/results/eye; read by lorax/transfer/forecast.py"
Told = dict[str, dict[str, dict[str, Any]]]  # method -> kind of pair -> what was seen


def told(results: Results) -> Told:
    """Mean and range of the frontiers, each of one LoRA by which no method was chosen; of how many pairs and LoRAs."""
    shares: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in figures(results, {style: (style,) for style in REPORTING}):
        if runs_models(one.variant) and one.frontier:
            pair = one.source, one.target
            shares[one.variant, kind_of(*pair)][pair].append(one.frontier.mean)
    found: Told = defaultdict(dict)
    for (method, kind), pairs in shares.items():
        found[method][kind] = of_pairs(pairs)
    return dict(found)


def write(results: Results, path: Path = SEEN) -> None:
    path.write_text(json.dumps({"about": ABOUT, "running": told(results)}, indent=1) + "\n", encoding="utf-8")
