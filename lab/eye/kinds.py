"""What is seen of LoRAs that are made otherwise than the usual ones, and of characters."""

from __future__ import annotations

from collections.abc import Sequence

from lab.eye.figures import Figure
from lab.report.tables import markdown, number, percent
from lab.results import NATIVE
from lab.variants import BY_NAME, COPY
from lab.zoo import CHOOSING_CHARACTERS, KIND_STYLES, OF_KINDS, REPORTING_CHARACTERS
from lorax.methods import REFINE

TOLD = {"r16": "rank 16", "r32": "rank 32", "locon": "rank 16, convolutions too", "unet": "rank 16, UNet alone"}
GROUPS = {
    "rank 4, as above": KIND_STYLES,
    **{told: OF_KINDS[kind] for kind, told in TOLD.items()},
    "characters, choosing": CHOOSING_CHARACTERS,
    "characters, reporting": REPORTING_CHARACTERS,
}
HEAD = (
    *("to", "LoRAs", "trained there: style, subjects", "the original", "a copy", "`refine`"),
    *("`refine` less the copy", "harm of what is trained there", "harm of `refine`"),
)


def of_kinds(found: Sequence[Figure]) -> str:
    """A table with a row for each target and kind of LoRA, from the figures of ``GROUPS``."""
    figures = {(one.target, one.half, one.variant): one for one in found}
    targets = dict.fromkeys(one.target for one in found if one.half != next(iter(GROUPS)))
    rows = []
    for target in targets:
        for group in GROUPS:
            native, by_name, copy, refined = (figures.get((target, group, one)) for one in (NATIVE, BY_NAME, COPY, REFINE))
            if native and copy and refined:
                style, content = native.at[1.0]
                shares = (number(one.frontier) if one else "as a copy" for one in (by_name, copy, refined))
                harms = (percent(one.harm) for one in (native, refined))
                rows.append((target, group, f"{style:.2f}, {content:.2f}", *shares, number(refined.less_copy), *harms))
    return markdown(HEAD, rows)
