"""What a source shows with its own LoRA, beside what refine has a target learn from it."""

from __future__ import annotations

from collections.abc import Sequence

from lab.eye.at_length import AT_LENGTH
from lab.eye.costs import less_usual
from lab.eye.figures import HALVES, Figure, curve, is_there
from lab.eye.frontier import Judged, frontier
from lab.eye.looking import PAIRS
from lab.report.tables import markdown, number
from lab.results import NATIVE, Results
from lab.stats import Interval
from lorax.methods import REFINE

HEAD = ("from", "to", "styles", "the source itself", "refine", "refine at length", "at length less refine")


def of_sources(found: Sequence[Figure], results: Results) -> str:
    """A table by pair and half: frontiers of the LoRA on the source itself, and of refine, as shares of the native's."""
    rows = []
    for source, target in PAIRS:
        for half in HALVES:
            its = {one.variant: one for one in found if (one.source, one.target, one.group) == (source, target, half)}
            if usual := its.get(REFINE):
                at_length = its.get(AT_LENGTH)
                more = less_usual(at_length, {(target, REFINE): usual}, results) if at_length else None
                shares = (itself(results, usual), usual.frontier, at_length and at_length.frontier, more)
                rows.append((source, target, half, *map(number, shares)))
    return markdown(HEAD, rows)


def itself(results: Results, of: Figure) -> Interval | None:
    """The frontier of the source with the LoRAs of a figure; None if they were not drawn there."""
    if not all(is_there(results, of.source, NATIVE, "", style) for style in of.styles):
        return None
    curves = ([curve(results, model, NATIVE, "", style) for model in (of.source, of.target)] for style in of.styles)
    return frontier([Judged(*its, None) for its in curves])
