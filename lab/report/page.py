"""Puts ``docs/findings.md`` together: a template with what a human judges, and blocks that the figures make."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lab.measure import SEEDS, TIMES
from lab.report import behaviour, checks, plots, prose, tables, trained
from lab.report.cells import Cells
from lab.stats import DRAWS
from lab.zoo import CONCEPT, HEADLINE_RANK, RATES, STYLES, are_related
from lorax.methods import auto

TEMPLATE = "findings.md.in"
QUESTIONS = {
    "ranks": plots.against_adapter_rank,
    "kept_rank": plots.against_kept_rank,
    "threshold": plots.against_threshold,
    "similarity": plots.against_similarity,
    "strength": plots.against_strength,
    "steps": plots.against_steps,
}


def write(cells: Cells, page: Path) -> None:
    """The page and, in a folder of its name beside it, its plots. What has no data is left out."""
    pictures = page.with_suffix("")
    for plot in pictures.glob("*.svg"):
        plot.unlink()  # none stays that nothing is left to draw from
    blocks = {
        "pairs": _pairs(cells),
        "best_methods": list(prose.best_methods(cells)),
        "against_copy": list(prose.against_copy(cells)),
        "arrivals": list(prose.arrivals(cells)),
        "specifics": list(prose.specifics(cells)),
        "by_pair": tables.by_pair(cells),
        "by_overlap": tables.by_overlap(cells),
        "by_behaviour": tables.by_behaviour(cells),
        "of_behaviour": list(behaviour.sentences(cells)),
        "over_ranks": list(prose.over_ranks(cells)),
        "over_kept_rank": list(prose.over_question(cells, "rank")),
        "over_threshold": list(prose.over_question(cells, "threshold")),
        "concept": list(prose.concept(cells)),
        "checks": checks.everything(cells),
        "plots": {name: file for name, draw in QUESTIONS.items() if (file := _drawn(draw(cells), pictures / f"{name}.svg"))},
        "forecast": _forecast(cells.results.folder, pictures),
        "trained": trained.section(cells.results, cells.results.folder),
        "pictures": _pictures(cells.results.folder),
        "measured": _measured(cells),
        "floor": f"{plots.FLOOR:g}",
        "little": f"{auto.LITTLE:g}",
        "much": f"{auto.MUCH:g}",
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    text = environment.get_template(TEMPLATE).render(blocks).strip() + "\n"
    page.write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")  # what is left out leaves no gap


def _pairs(cells: Cells) -> list[dict[str, Any]]:
    headline, styles, ranks = tables.headline(cells), tables.by_style(cells), tables.by_rank(cells)
    return [
        {
            "name": prose.called(pair),
            "related": are_related(*pair),
            "sentences": list(prose.of_pair(cells, pair)),
            "headline": headline[pair],
            "styles": styles[pair],
            "ranks": ranks[pair],
        }
        for pair in headline
    ]


def _forecast(results: Path, pictures: Path) -> dict[str, Any] | None:
    """``forecast.json`` beside the results: ``plots``, name -> lists ``predicted``, ``measured``, ``labels``; ``sentences``;
    ``tables``, each its rows as records."""
    file = results / "forecast.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    drawn = {
        name: _drawn(plots.predicted_against_measured(**points), pictures / f"forecast-{name}.svg")
        for name, points in found["plots"].items()
    }
    return {"plots": drawn, "sentences": found["sentences"], "tables": [_table(rows) for rows in found["tables"]]}


def _pictures(results: Path) -> dict[str, Any] | None:
    """``pictures.json`` beside the results: rows of one table as records, and ``sentences``."""
    file = results / "pictures.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return {"table": _table(found["rows"]), "sentences": found["sentences"]}


def _table(rows: list[dict[str, Any]]) -> str:
    return tables.markdown(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows])


def _measured(cells: Cells) -> dict[str, Any]:
    stored, ranks = cells.results, cells.whole_ranks()
    return {
        "seeds": SEEDS,
        "times": TIMES,
        "draws": DRAWS,
        "level": "95 %",
        "styles": STYLES,
        "concept": CONCEPT,
        "rank": HEADLINE_RANK,
        "ranks": ranks,
        "no_ranks": [rank for rank in RATES if rank not in ranks],
        "icons": sorted({cells.size(cell)[0] for pair in cells.headline_pairs() for cell in cells.single(*pair, prose.COPY)}),
        "losses": len(stored.losses),
        "minutes": {target: round(minutes) for target, minutes in stored.minutes.items()},
        "hours": round(sum(stored.minutes.values()) / 60, 1),
    }


def _drawn(figure: plots.Figure | None, path: Path) -> str:
    """The link to a plot, empty without one."""
    if figure is None:
        return ""
    plots.save(figure, path)
    return _link(path)


def _link(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
