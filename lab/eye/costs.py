"""What refine and bridge show otherwise than they are by default, beside that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lab.eye.by_models import HALVED, WEIGHTED
from lab.eye.figures import Figure, curve
from lab.eye.frontier import Judged, less_copy
from lab.eye.ideas import BESIDE_REFINE, CHEAPER, FULL, ON_ANSWERS, ON_NOISE
from lab.report.tables import markdown, number
from lab.results import NATIVE, Results
from lab.stats import Interval
from lorax.methods import BRIDGE, REFINE

HEAD = ("variant", "to", "styles", "frontier", "less usual", "recovery")


def costs(found: Sequence[Figure], results: Results) -> str:
    """A table of what was tried with the pictures, to another family, on the styles for choosing."""
    return _table((REFINE, *CHEAPER, FULL), CHEAPER, found, results)


def on_answers(found: Sequence[Figure], results: Results) -> str:
    """A table of what was tried with the source's answers, within a family, on the styles for choosing."""
    return _table((REFINE, *ON_ANSWERS, *ON_NOISE), ON_ANSWERS, found, results)


def beside_refine(found: Sequence[Figure], results: Results) -> str:
    """A table of ideas that were tried in place of refine, on the styles for choosing."""
    return _table((REFINE, *BESIDE_REFINE), BESIDE_REFINE, found, results)


def beside_bridge(found: Sequence[Figure], results: Results) -> str:
    """A table of what was tried in place of bridge, on the styles for choosing."""
    return _table((BRIDGE, WEIGHTED, *HALVED), (WEIGHTED, *HALVED), found, results)


def _table(names: Sequence[str], tried: Collection[str], found: Sequence[Figure], results: Results) -> str:
    """Rows by name and target, if something of ``tried`` was drawn there. The first name is the usual."""
    targets = dict.fromkeys(one.target for one in found if one.variant in tried)
    shown = {(one.target, one.variant): one for one in found if one.group == "choosing" and one.target in targets}
    rows = [
        (name, target, ", ".join(one.styles), number(one.frontier), number(less), number(one.recovery))
        for name in names
        for target in targets
        if (one := shown.get((target, name)))
        for less in [less_usual(one, shown, results, names[0])]
    ]
    return markdown(HEAD, rows)


def less_usual(one: Figure, shown: Mapping[tuple[str, str], Figure], results: Results, usual: str = REFINE) -> Interval | None:
    """The frontier less that of the usual method, paired, over the styles of which both are there."""
    other = shown.get((one.target, usual))
    styles = [style for style in one.styles if other and style in other.styles]
    if one is other or not styles:
        return None
    beside = ((one.variant, one.source), (NATIVE, ""), (usual, one.source))
    curves = ([curve(results, one.target, variant, source, style) for variant, source in beside] for style in styles)
    return less_copy([Judged(*its) for its in curves])
