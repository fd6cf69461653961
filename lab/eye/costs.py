"""What refine shows otherwise than it is by default, beside that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.eye.figures import Figure, curve
from lab.eye.frontier import Judged, less_copy
from lab.eye.ideas import CHEAPER, FULL, ON_ANSWERS, ON_NOISE
from lab.report.tables import markdown, number
from lab.results import NATIVE, Results
from lab.stats import Interval
from lorax.methods import REFINE

HEAD = ("variant", "to", "styles", "frontier", "less usual", "recovery")


def costs(found: Sequence[Figure], results: Results) -> str:
    """A table of what was tried with the pictures, to another family, on the styles for choosing."""
    return _table((REFINE, *CHEAPER, FULL), CHEAPER, found, results)


def on_answers(found: Sequence[Figure], results: Results) -> str:
    """A table of what was tried with the source's answers, within a family, on the styles for choosing."""
    return _table((REFINE, *ON_ANSWERS, *ON_NOISE), ON_ANSWERS, found, results)


def _table(names: Sequence[str], tried: Mapping[str, object], found: Sequence[Figure], results: Results) -> str:
    targets = dict.fromkeys(one.target for one in found if one.variant in tried)
    shown = {(one.target, one.variant): one for one in found if one.group == "choosing" and one.target in targets}
    rows = [
        (name, target, ", ".join(one.styles), number(one.frontier), number(less_usual(one, shown, results)), number(one.recovery))
        for name in names
        for target in targets
        if (one := shown.get((target, name)))
    ]
    return markdown(HEAD, rows)


def less_usual(one: Figure, shown: Mapping[tuple[str, str], Figure], results: Results) -> Interval | None:
    """The frontier less that of refine as it usually is, paired, over the styles of which both are there."""
    usual = shown.get((one.target, REFINE))
    styles = [style for style in one.styles if usual and style in usual.styles]
    if one is usual or not styles:
        return None
    beside = ((one.variant, one.source), (NATIVE, ""), (REFINE, one.source))
    curves = ([curve(results, one.target, variant, source, style) for variant, source in beside] for style in styles)
    return less_copy([Judged(*its) for its in curves])
