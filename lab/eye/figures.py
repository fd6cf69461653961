"""Figures from what was drawn and measured: one record for each pair, variant and half of the styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab.eye.frontier import Curve, Judged, frontier, less_copy, style_at_native_content
from lab.eye.ideas import VARIANTS, strengths_of
from lab.eye.looking import PAIRS, adapter_of
from lab.pictures import SEEDS, TOP
from lab.results import ALONE, NATIVE, ORDINARY, Key, Results, native_of
from lab.stats import Interval, Measured, beyond, change, recovered, recovery
from lab.variants import COPY
from lab.zoo import CHOOSING, REPORTING, SHOWN

HALVES = {"choosing": CHOOSING, "reporting": REPORTING}


@dataclass(frozen=True)
class Figure:
    """What a variant is worth on a pair, over the styles of one half that were looked at."""

    source: str
    target: str
    variant: str
    half: str
    styles: tuple[str, ...]
    frontier: Interval | None  # None if it was drawn at one strength
    less_copy: Interval | None
    style: Interval | None  # at the native's content
    at: dict[float, tuple[float, float]]  # by strength: mean style and content
    recovery: Interval  # of the loss, at strength 1
    specific: float  # the same with the other styles' natives as zero
    harm: Interval


def figures(results: Results) -> list[Figure]:
    return [
        found
        for source, target in PAIRS
        for half, styles in HALVES.items()
        for variant in (NATIVE, *VARIANTS)
        if (found := _figure(results, source, target, variant, half, styles))
    ]


def _figure(results: Results, source: str, target: str, variant: str, half: str, styles: Sequence[str]) -> Figure | None:
    of = "" if variant == NATIVE else source
    done = tuple(style for style in styles if _is_there(results, target, variant, of, style))
    if not done:
        return None
    strengths = strengths_of(variant)
    whole = len(strengths) > 1
    judged = [
        Judged(
            curve(results, target, variant, of, style),
            curve(results, target, NATIVE, "", style),
            curve(results, target, COPY, source, style),
        )
        for style in done
    ]
    losses = [measured(results, target, variant, of, style) for style in done]
    harmed = [_ordinary(results, target, variant, of, style) for style in done]
    return Figure(
        source,
        target,
        variant,
        half,
        done,
        frontier(judged) if whole else None,
        less_copy(judged) if whole and variant not in (NATIVE, COPY) else None,
        style_at_native_content(judged) if whole else None,
        {one: _point(results, target, variant, of, done, one) for one in strengths},
        recovery(losses),
        float(np.mean([specific(results, target, style, one) for style, one in zip(done, losses, strict=True)])),
        change(harmed),
    )


def _is_there(results: Results, target: str, variant: str, source: str, style: str) -> bool:
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


def _point(
    results: Results, target: str, variant: str, source: str, styles: Sequence[str], strength: float
) -> tuple[float, float]:
    found = [by_prompt(results.reports[Key(target, adapter_of(style).name, variant, source, strength)]) for style in styles]
    style, content = (float(np.mean([one[part] for one in found])) for part in (0, 1))
    return style, content


def measured(results: Results, target: str, variant: str, source: str, style: str) -> Measured:
    name = adapter_of(style).name
    alone, native = (results.losses[Key(target, name, one)] for one in (ALONE, NATIVE))
    return Measured(alone, native, results.losses[Key(target, name, variant, source)])


def _ordinary(results: Results, target: str, variant: str, source: str, style: str) -> tuple[torch.Tensor, torch.Tensor]:
    name = adapter_of(style).name
    alone = results.losses[Key(target, name, ALONE, on=ORDINARY)]
    return alone, results.losses[Key(target, name, variant, source, on=ORDINARY)]


def specific(results: Results, target: str, style: str, measured: Measured) -> float:
    """Recovery in which zero is what the other styles' natives give at this style's norm, and 1 the native."""
    keys = (Key(target, adapter_of(style).name, native_of(other)) for other in SHOWN)
    return recovered([beyond(measured, [results.losses[key] for key in keys if key in results.losses])])
