"""What would be stored of pictures that show a share of a style, and every subject."""

from __future__ import annotations

import torch

from lab.eye.ideas import strengths_of
from lab.eye.looking import PROMPTS
from lab.pictures import SEEDS
from lab.results import ALONE, NATIVE, ORDINARY, STYLE, Key, Results
from lab.zoo import Adapter
from lorax.demo.bundle import BASE


def store(results: Results, adapter: Adapter, target: str, variant: str, share: float) -> None:
    """As much of the style at each strength."""
    of, count = "" if variant in (ALONE, NATIVE) else BASE, len(PROMPTS) * SEEDS
    for strength in (1.0,) if variant == ALONE else strengths_of(variant):
        results.add_report(Key(target, adapter.name, variant, of, strength), {"style": [share] * count, "rank": [0] * count})
        for on in (STYLE, ORDINARY):
            results.add_losses(Key(target, adapter.name, variant, of, strength, on), torch.full((4, 2), 1 - share / 2))
