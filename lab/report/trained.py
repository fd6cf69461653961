"""What LoRA-X adapters are worth against LoRAs of the same source, from the results of ``lab adapters``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lab.constrained import KINDS, METHODS, SOURCE, TARGETS, Kind, folder
from lab.report.claims import grouped, listed
from lab.report.tables import markdown, number
from lab.results import ALONE, NATIVE, Key, Results
from lab.stats import Interval, Measured, recovery
from lab.zoo import HEADLINE_RANK, RATES, STYLES

PLACES = ((SOURCE, ""), *((target, method) for target in TARGETS for method in METHODS))  # where, and moved by what


def section(stored: Results, results: Path) -> dict[str, Any] | None:
    """The table and the styles in it; None where nothing is measured."""
    own = Results(folder(results))
    styles = [
        style for style in STYLES if all(_losses(own, kind.name, style, place) is not None for kind in KINDS for place in PLACES)
    ]
    if not styles:
        return None
    head = ["adapter", *(f"on {where}" if where == SOURCE else f"to {where}, `{how}`" for where, how in PLACES)]
    lines = [
        *(_line(f"LoRA-X, {kind.title}", [_cell(stored, own, kind.name, styles, place) for place in PLACES]) for kind in KINDS),
        *(
            _line(f"LoRA of rank {rank}", [_cell(stored, stored, f"r{rank}", styles, place) for place in PLACES])
            for rank in RATES
        ),
    ]
    claims = [_claim(stored, own, kind, styles) for kind in KINDS]
    return {"table": markdown(head, [line for line in lines if line]), "styles": styles, "claims": claims}


def _claim(stored: Results, own: Results, kind: Kind, styles: list[str]) -> str:
    """Where it is worth more or less than the headline's LoRA, moved alike."""
    differences = []
    for where, how in PLACES:
        ours, theirs = (
            list(_measured(stored, results, name, styles, (where, how)))
            for results, name in ((own, kind.name), (stored, f"r{HEADLINE_RANK}"))
        )
        paired = [replace(one, minus=other.moved) for one, other in zip(ours, theirs, strict=True)]
        differences.append((f"to {where} by `{how}`" if how else f"on {where}", recovery(paired)))
    told = "; ".join(f"{verdict.value} {listed(names)}" for verdict, names in grouped(differences).items())
    return f"LoRA-X, {kind.title}, against the LoRA of rank {HEADLINE_RANK}: {told}."


def _line(name: str, cells: list[Interval | None]) -> list[str]:
    """Nothing for an adapter that is not measured."""
    return [name, *map(number, cells)] if any(cells) else []


def _cell(stored: Results, results: Results, kind: str, styles: list[str], place: tuple[str, str]) -> Interval | None:
    """Over the styles: 1 is what the LoRA of the headline's rank gains that was trained there."""
    found = list(_measured(stored, results, kind, styles, place))
    return recovery(found) if len(found) == len(styles) else None


def _measured(stored: Results, results: Results, kind: str, styles: list[str], place: tuple[str, str]) -> Iterator[Measured]:
    for style in styles:
        known = [stored.losses.get(Key(place[0], f"{style}-r{HEADLINE_RANK}", variant)) for variant in (ALONE, NATIVE)]
        moved = _losses(results, kind, style, place)
        if known[0] is not None and known[1] is not None and moved is not None:
            yield Measured(known[0], known[1], moved)


def _losses(results: Results, kind: str, style: str, place: tuple[str, str]) -> torch.Tensor | None:
    """Of a LoRA by its rank, as in ``r4``, which the sweep has measured, or of a kind of LoRA-X adapter."""
    where, how = place
    if kind.startswith("r"):
        key = Key(where, f"{style}-{kind}", how, SOURCE) if how else Key(where, f"{style}-{kind}", NATIVE)
    else:
        key = Key(where, f"{style}-r{HEADLINE_RANK}", " by ".join(filter(None, (kind, how))), SOURCE)
    return results.losses.get(key)
