"""What the README quotes of the figures by pictures: what to expect of each button, by how two checkpoints are related."""

from __future__ import annotations

from collections.abc import Sequence

from lab.eye.figures import Figure
from lab.eye.kinds import FOR_REPORTING
from lab.report.tables import markdown
from lab.stats import Interval
from lab.variants import BY_NAME, COPY
from lab.zoo import FURTHER, NEAR, SCRATCH_LONG, XL, XL_LONG, XL_PRUNED, are_related, kind_of
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import BRIDGE, REFINE
from lorax.transfer.expected import CROSSED

HALF = "reporting"  # no method was chosen by these styles
TOLD = {  # what an artist calls such a pair, and of what it is measured
    (BASE, NEAR, HALF): "a fine-tune that draws alike",
    (BASE, FINETUNE, HALF): "a fine-tune with another look",
    (BASE, FINETUNE, FOR_REPORTING): "the same pair, a character",
    (BASE, FURTHER, HALF): "a fine-tune that draws in black and white",
    (BASE, PRUNED, HALF): "slimmed down, as small-sd",
    (BASE, PRUNED, FOR_REPORTING): "the same pair, a character",
    (XL, XL_PRUNED, HALF): "slimmed down, as SSD-1B",
    (BASE, SCRATCH_LONG, HALF): "not related",  # of two such bases, the one that draws better
    (BASE, XL_LONG, HALF): "SD 1.x to SDXL",  # likewise
}
Of = tuple[str, str, str]  # source, target, group of LoRAs
HEADS = ("your two checkpoints", "the original", "Move", "Refine", "Bridge")
DURATIONS = ("how long at full size", "no time", "seconds to minutes", "3 minutes to an hour\\*", "minutes to an hour\\*")


def what_to_expect(found: Sequence[Figure]) -> str:
    """A row for each kind of pair that was looked at, a column for each button of the tab.

    ``found``: of the styles, and of characters.
    """
    frontiers: dict[Of, dict[str, Interval | None]] = {}
    for one in found:
        frontiers.setdefault((one.source, one.target, one.group), {})[one.variant] = one.frontier
    rows = [(told, *_shares(of[:2], frontiers[of])) for of, told in TOLD.items() if of in frontiers]
    return markdown(HEADS, [*rows, DURATIONS])


def _shares(pair: tuple[str, str], frontiers: dict[str, Interval | None]) -> tuple[str, ...]:
    copy, by_name, refine, bridge = (_percent(frontiers.get(one)) for one in (COPY, BY_NAME, REFINE, BRIDGE))
    original = "does not fit" if kind_of(*pair) == CROSSED else by_name or copy  # a copy by name is drawn where names differ
    move = copy if are_related(*pair) else "declines"  # what auto moves is a copy at a strength of its own: on the same curve
    return tuple(share or "-" for share in (original, move, refine, bridge))


def _percent(frontier: Interval | None) -> str:
    if frontier is None:
        return ""
    mean, low, high = (round(100 * value) for value in (frontier.mean, frontier.low, frontier.high))
    return f"{mean}% ({low}-{high})"
