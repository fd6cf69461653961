"""What was seen, as flat records: one for each pair, variant, style and strength."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lab import stats
from lab.eye.figures import beyond_others, by_prompt, measured, ordinary
from lab.eye.ideas import VARIANTS, strengths_of
from lab.eye.looking import PAIRS, adapter_of
from lab.report.records import flat
from lab.results import NATIVE, Key, Results
from lab.zoo import CHOOSING, CHOOSING_CHARACTERS, LOOKED_AT, are_related

FOR_CHOOSING = (*CHOOSING, *CHOOSING_CHARACTERS)


def records(results: Results) -> list[dict[str, Any]]:
    """Intervals are over subjects, and of what is measured by a loss over icons and noise seeds."""
    return [
        _record(results, key, style, (source, target))
        for source, target in PAIRS
        for style in LOOKED_AT
        if Key(target, adapter_of(style).name, NATIVE) in results.reports  # without it nothing can be told as a share
        for key in _keys(source, target, style)
        if key in results.reports
    ]


def _keys(source: str, target: str, style: str) -> Iterator[Key]:
    for variant in (NATIVE, *VARIANTS):
        for strength in strengths_of(variant):
            yield Key(target, adapter_of(style).name, variant, "" if variant == NATIVE else source, strength)


def _record(results: Results, key: Key, style: str, pair: tuple[str, str]) -> dict[str, Any]:
    adapter, has_losses = adapter_of(style), key in results.losses
    arrives, kept = (stats.mean(torch.tensor(values, dtype=torch.float32)) for values in by_prompt(results.reports[key]))
    return {
        **dict(zip(("source", "target"), pair, strict=True)),
        "related": are_related(*pair),
        "variant": key.variant,
        "question": "pictures",
        "style": adapter.icons,
        "kind": adapter.kind,
        "group": "choosing" if adapter.icons in FOR_CHOOSING else "reporting",
        "rank": adapter.rank,
        "strength": key.strength,
        **flat("recovery", stats.recovery([measured(results, key)]) if has_losses else None),
        **flat("specific", stats.recovery([own]) if has_losses and (own := beyond_others(results, key)) else None),
        **flat("harm", stats.change([ordinary(results, key)]) if has_losses else None),
        **flat("style_arrives", arrives),
        **flat("content_kept", kept),
    }
