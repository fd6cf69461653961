"""Figures from what was drawn and measured: one record for each pair, variant and group of LoRAs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lab.eye.frontier import Curve, Judged, frontier, less_copy, style_at_native_content
from lab.eye.ideas import VARIANTS, strengths_of
from lab.eye.looking import PAIRS, adapter_of
from lab.pictures import SEEDS, TOP
from lab.results import ALONE, NATIVE, ORDINARY, Key, Results
from lab.stats import Interval, Measured, beyond, change, recovered, recovery
from lab.variants import COPY
from lab.zoo import CHOOSING, REPORTING

HALVES = {"choosing": CHOOSING, "reporting": REPORTING}


@dataclass(frozen=True)
class Figure:
    """What a variant is worth on a pair, over the LoRAs of one group that were looked at: a half of the styles, or a kind."""

    source: str
    target: str
    variant: str
    group: str
    styles: tuple[str, ...]
    frontier: Interval | None  # None if it was drawn at one strength
    less_copy: Interval | None
    style: Interval | None  # at the native's content
    at: dict[float, tuple[float, float]]  # by strength: mean style and content
    recovery: Interval  # of the loss, at strength 1
    specific: float | None  # the same with the other styles' natives as zero, if they were measured
    harm: Interval


def figures(
    results: Results, groups: Mapping[str, Sequence[str]] = HALVES, pairs: Sequence[tuple[str, str]] = PAIRS
) -> list[Figure]:
    """``groups``: the LoRAs over which each figure is taken, by what they are called."""
    return [
        found
        for source, target in pairs
        for group, styles in groups.items()
        for variant in (NATIVE, *VARIANTS)
        if (found := _figure(results, source, target, variant, group, styles))
    ]


def _figure(results: Results, source: str, target: str, variant: str, group: str, styles: Sequence[str]) -> Figure | None:
    of = "" if variant == NATIVE else source
    done = tuple(style for style in styles if is_there(results, target, variant, of, style))
    if not done:
        return None
    strengths = strengths_of(variant)
    whole = len(strengths) > 1
    against_a_copy = whole and variant not in (NATIVE, COPY) and all(is_there(results, target, COPY, source, one) for one in done)
    judged = [
        Judged(
            curve(results, target, variant, of, style),
            curve(results, target, NATIVE, "", style),
            curve(results, target, COPY, source, style) if against_a_copy else None,
        )
        for style in done
    ]
    keys = [Key(target, adapter_of(style).name, variant, of) for style in done]
    return Figure(
        source,
        target,
        variant,
        group,
        done,
        frontier(judged) if whole else None,
        less_copy(judged) if against_a_copy else None,
        style_at_native_content(judged) if whole else None,
        {one: point(results, target, variant, of, done, one) for one in strengths},
        recovery([measured(results, key) for key in keys]),
        recovered(own) if all(own := [beyond_others(results, key) for key in keys]) else None,
        change([ordinary(results, key) for key in keys]),
    )


def is_there(results: Results, target: str, variant: str, source: str, style: str) -> bool:
    """Whether a curve can be drawn: the target alone, and the variant at each of its strengths."""
    name = adapter_of(style).name
    strengths = strengths_of(variant)
    wanted = [Key(target, name, variant, source, one) for one in strengths]
    return all(key in results.reports for key in [Key(target, name, ALONE), *wanted])


def curve(results: Results, target: str, variant: str, source: str, style: str) -> Curve:
    """Of one style, from the target alone on."""
    name = adapter_of(style).name
    strengths = strengths_of(variant)
    keys = [Key(target, name, ALONE), *(Key(target, name, variant, source, one) for one in strengths)]
    style_, content = zip(*(by_prompt(results.reports[key]) for key in keys), strict=True)
    return Curve((0.0, *strengths), np.stack(style_), np.stack(content))


def by_prompt(report: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Style and content (prompts,), each the mean over seeds."""
    style = np.array(report["style"]).reshape(SEEDS, -1).mean(0)
    content = (np.array(report["rank"]) < TOP).reshape(SEEDS, -1).mean(0)
    return style, content


def point(
    results: Results, target: str, variant: str, source: str, styles: Sequence[str], strength: float
) -> tuple[float, float]:
    found = [by_prompt(results.reports[Key(target, adapter_of(style).name, variant, source, strength)]) for style in styles]
    style, content = (float(np.mean([one[part] for one in found])) for part in (0, 1))
    return style, content


def measured(results: Results, key: Key) -> Measured:
    alone, native = (results.losses[Key(key.target, key.adapter, one)] for one in (ALONE, NATIVE))
    return Measured(alone, native, results.losses[key])


def ordinary(results: Results, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses on the target's own captions, without the adapter and with it."""
    alone = results.losses[Key(key.target, key.adapter, ALONE, on=ORDINARY)]
    return alone, results.losses[replace(key, on=ORDINARY)]


def beyond_others(results: Results, key: Key) -> Measured | None:
    """The same as ``measured``, but zero is what the other styles' natives give at this style's norm.

    None if none of them was measured.
    """
    given = results.of_others(key.target, key.adapter)
    return beyond(measured(results, key), given) if given else None
