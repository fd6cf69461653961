"""What the README quotes of the figures by pictures: what to expect of each button, by how two checkpoints are related."""

from __future__ import annotations

from collections.abc import Sequence

from lab.eye.figures import Figure
from lab.report.tables import markdown
from lab.stats import Interval
from lab.variants import BY_NAME, COPY
from lab.zoo import CROSSING, FURTHER, NEAR, SCRATCH, XL, XL_PRUNED, are_related
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import BRIDGE, REFINE

HALF = "reporting"  # no method was chosen by these styles
TOLD = {  # what an artist calls such a pair
    (BASE, NEAR): "a fine-tune that draws alike",
    (BASE, FINETUNE): "a fine-tune that draws otherwise, in colour",
    (BASE, FURTHER): "a fine-tune that draws in black and white",
    (BASE, PRUNED): "slimmed down, as small-sd",
    (XL, XL_PRUNED): "slimmed down, as SSD-1B",
    (BASE, SCRATCH): "not related",
    CROSSING: "SD 1.x to SDXL",
}
HEADS = ("your two checkpoints", "the original", "Move", "Refine", "Bridge")
DURATIONS = ("how long at full size", "no time", "seconds to minutes", "3 minutes to an hour\\*", "minutes to an hour\\*")


def what_to_expect(found: Sequence[Figure]) -> str:
    """A row for each kind of pair that was looked at, a column for each button of the tab."""
    frontiers = {(one.source, one.target, one.variant): one.frontier for one in found if one.half == HALF}
    measured = {(source, target) for source, target, _ in frontiers}
    rows = [(told, *_shares(pair, frontiers)) for pair, told in TOLD.items() if pair in measured]
    return markdown(HEADS, [*rows, DURATIONS])


def _shares(pair: tuple[str, str], frontiers: dict[tuple[str, str, str], Interval | None]) -> tuple[str, ...]:
    copy, by_name, refine, bridge = (_percent(frontiers.get((*pair, one))) for one in (COPY, BY_NAME, REFINE, BRIDGE))
    original = "does not fit" if pair == CROSSING else by_name or copy  # a copy by name is drawn where names differ
    move = copy if are_related(*pair) else "declines"  # what auto moves is a copy at a strength of its own: on the same curve
    return tuple(share or "-" for share in (original, move, refine, bridge))


def _percent(frontier: Interval | None) -> str:
    if frontier is None:
        return ""
    mean, low, high = (round(100 * value) for value in (frontier.mean, frontier.low, frontier.high))
    return f"{mean}% ({low} to {high})"
