"""What is seen of LoRAs that are made otherwise than the usual ones, and of characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.eye.figures import Figure, figures
from lab.eye.ideas import DRAWN
from lab.report.tables import markdown, number, percent
from lab.results import NATIVE, Results
from lab.variants import BY_NAME, COPY
from lab.zoo import CHOOSING_CHARACTERS, KIND_STYLES, KINDS, OF_KINDS, REPORTING_CHARACTERS, Kind
from lorax.methods import REFINE


def _in_words(kind: Kind) -> str:
    return f"rank {kind.rank}{', convolutions too' if kind.convolution else ''}{'' if kind.text else ', UNet alone'}"


USUAL, FOR_REPORTING = "rank 4, as above", "characters, reporting"
GROUPS = {
    USUAL: KIND_STYLES,
    **{_in_words(kind): OF_KINDS[name] for name, kind in KINDS.items()},
    "characters, choosing": CHOOSING_CHARACTERS,
    FOR_REPORTING: REPORTING_CHARACTERS,
}
HEAD = (
    *("to", "LoRAs", "trained there, at strength 1: style, subjects", "the original", "a copy", "`refine`"),
    *("`refine` less the copy", "ordinary loss, trained there", "ordinary loss, `refine`"),
)


def of_groups(results: Results) -> list[Figure]:
    """Figures of each of ``GROUPS``, once all of its LoRAs were looked at."""
    return [one for one in figures(results, GROUPS) if one.styles == GROUPS[one.group]]


def of_kinds(found: Sequence[Figure]) -> str:
    """A table with a row for each target and kind of LoRA, from the figures of ``GROUPS``."""
    whole = {(one.target, one.group, one.variant): one for one in found}
    targets = dict.fromkeys(target for target, group, _ in whole if group != USUAL)
    rows = (_row(target, group, whole) for target in targets for group in GROUPS)
    return markdown(HEAD, [row for row in rows if row])


def _row(target: str, group: str, whole: Mapping[tuple[str, str, str], Figure]) -> tuple[str, ...]:
    """Empty if it is not measured yet."""
    native, by_name, copy, refined = (whole.get((target, group, one)) for one in (NATIVE, BY_NAME, COPY, REFINE))
    if not (native and copy and refined) or (by_name is None and BY_NAME in DRAWN[target]):
        return ()
    style, content = native.at[1.0]
    shares = (number(one.frontier) if one else "as a copy" for one in (by_name, copy, refined))
    harms = (percent(one.harm) for one in (native, refined))
    return (target, group, f"{style:.2f}, {content:.2f}", *shares, number(refined.less_copy), *harms)
