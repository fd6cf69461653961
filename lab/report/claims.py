"""When a figure may be called more, less or the same: the rules by which every sentence of the findings is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from lab.report.tables import number
from lab.stats import Interval

SHOWN = 0.0005  # stored losses are rounded; what is below this is rounding


class Verdict(Enum):
    """Of a paired difference."""

    MORE = "more"
    LESS = "less"
    SAME = "the same"
    UNKNOWN = "no difference measured"


def verdict(difference: Interval) -> Verdict:
    """A claim needs an interval that excludes 0; without one, that nothing was measured is not that both are the same."""
    if abs(difference.low) < SHOWN and abs(difference.high) < SHOWN:
        return Verdict.SAME
    if difference.is_above_zero:
        return Verdict.MORE
    return Verdict.LESS if difference.is_below_zero else Verdict.UNKNOWN


def effect(recovery: Interval) -> str:
    """Of a recovery, in words."""
    words = {
        Verdict.MORE: "has an effect",
        Verdict.LESS: "does harm",
        Verdict.SAME: "changes nothing",
        Verdict.UNKNOWN: "has no effect that could be measured",
    }
    return f"{words[verdict(recovery)]}: {number(recovery)}"


def grouped(differences: Iterable[tuple[str, Interval | None]], *, figures: bool = True) -> dict[Verdict, list[str]]:
    """Names by verdict; with the figure where there is one to tell."""
    groups: dict[Verdict, list[str]] = {one: [] for one in Verdict}
    for name, difference in differences:
        if difference is not None:
            found = verdict(difference)
            tells = figures and found in (Verdict.MORE, Verdict.LESS)
            groups[found].append(f"{name} ({number(difference)})" if tells else name)
    return {one: names for one, names in groups.items() if names}


def apart(one: Interval, other: Interval) -> Verdict:
    """Of two figures of adapters that were trained apart, so that no difference is paired: told apart if they do not overlap."""
    if one.low > other.high:
        return Verdict.MORE
    return Verdict.LESS if one.high < other.low else Verdict.UNKNOWN


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
