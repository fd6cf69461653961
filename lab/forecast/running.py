"""What the methods that run the models recovered of the loss, by the kind of pair: they are too slow to be measured on many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from lab.report.cells import Cells
from lab.stats import of_pairs
from lab.zoo import CROSSING, HEADLINE_RANK, STYLES, kind_of
from lorax.methods import METHODS, runs_models

Measured = dict[str, dict[str, dict[str, Any]]]  # method -> kind of pair -> what was measured


def measured(cells: Cells) -> Measured:
    """The mean and the range of recovery at strength 1, over the styles at the headline's rank; of how many pairs."""
    found: Measured = defaultdict(dict)
    for method in filter(runs_models, METHODS):
        by_kind: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(dict)
        for pair in (*cells.pairs(), CROSSING):
            if recoveries := _recoveries(cells, pair, method):
                by_kind[kind_of(*pair)][pair] = recoveries
        for kind, pairs in by_kind.items():
            found[method][kind] = of_pairs(pairs)
    return dict(found)


def sentences(found: Measured) -> Iterator[str]:
    for method, kinds in found.items():
        for kind, one in kinds.items():
            yield (
                f"`{method}` between {kind}: recovery is {one['mean']:.2f} in the mean of {one['transfers']} transfers of "
                f"{one['pairs']} pair{'s' if one['pairs'] > 1 else ''}, all between {one['low']:.2f} and {one['high']:.2f}."
            )


def _recoveries(cells: Cells, pair: tuple[str, str], method: str) -> list[float]:
    found = (cells.recovered(cell) for cell in cells.single(*pair, method) if cell.rank == HEADLINE_RANK and cell.style in STYLES)
    return [one for one in found if one is not None]
