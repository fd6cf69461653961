"""Draws with adapters at several strengths, judges the pictures, and measures losses beside them.

What is stored is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from tqdm import tqdm

from lab import data, measure
from lab.bundle import is_made, runner_of
from lab.eye.ideas import ANOTHER, BY_THE_WAY, STRENGTHS, VARIANTS, another, is_drawn, moved_by
from lab.eye.judge import judged
from lab.pictures import SEEDS, generate
from lab.results import ALONE, NATIVE, ORDINARY, STYLE, Key, Results
from lab.sweep import add_others
from lab.zoo import (
    ADAPTERS,
    CROSSING,
    FURTHER,
    LOOKED_AT,
    NEAR,
    SCRATCH,
    SCRATCH_AGAIN,
    SCRATCH_LONG,
    SHOWN,
    UNCOMMITTED,
    XL,
    XL_LONG,
    XL_PRUNED,
    Adapter,
)
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.runner import Runner

PAIRS = (
    *((BASE, target) for target in (NEAR, FINETUNE, FURTHER, PRUNED, SCRATCH, SCRATCH_LONG, SCRATCH_AGAIN)),
    CROSSING,
    (BASE, XL_LONG),
    (XL, XL_PRUNED),
)
BOUNDS = (BASE,)  # sources to which nothing is moved: what they show with their own LoRAs is what a target can learn from them
# Of the 51 held-out subjects, those that the demo's bases draw best by themselves, chosen by eye before any adapter was seen.
PROMPTS = (
    *("balloon", "baseball", "bread", "guitar", "koala", "name badge"),
    *("open book", "pineapple", "television", "tractor", "violin", "wrench"),
)
FOLDER = "eye"  # within the folder of the results


def adapter_of(label: str) -> Adapter:
    """The LoRA of one of ``LOOKED_AT``: of a style, of a style and a kind, or of a character."""
    return ADAPTERS[f"{label}-long"]


def prompts_of(icons: str) -> list[str]:
    """What is asked for: the subjects, each after the trigger word of a character."""
    return [data.captioned(icons, subject) for subject in PROMPTS]


def look(options: argparse.Namespace) -> None:
    """Draw and judge what is not stored yet, pair by pair."""
    results = Results(options.results / FOLDER)
    labels = options.loras or LOOKED_AT
    for source in BOUNDS:
        if options.target in (None, source):
            looker = Looker(source, results)
            for label in labels:
                if label in SHOWN and looker.has_native(label):
                    looker.see_native(label)
    for source, target in PAIRS:
        if options.target not in (None, target) or not is_made(target):
            continue
        looker = Looker(target, results)
        for label in tqdm(labels, desc=f"{source} to {target}", mininterval=10):
            if adapter_of(label).path(source).is_file() and looker.has_native(label):
                looker.see(source, label)


class Looker:
    """One target with all that is seen on it. ``briefly``: with losses at strength 1 alone."""

    def __init__(self, target: str, results: Results, *, briefly: bool = False) -> None:
        self.target, self.results, self.runner = target, results, runner_of(target)
        self.briefly = briefly or target in (*UNCOMMITTED, *BOUNDS)  # a checkout is to stay small
        self.ordinary = measure.of_ordinary(self.runner, target)

    def has_native(self, label: str) -> bool:
        """Whether the native adapter can be drawn with, or was."""
        adapter = adapter_of(label)
        keys = [Key(self.target, adapter.name, NATIVE, strength=strength) for strength in STRENGTHS]
        return adapter.path(self.target).is_file() or all(key in self.results.reports for key in keys)

    def see(self, source: str, label: str, variants: Collection[str] = tuple(VARIANTS)) -> None:
        adapter, losses = adapter_of(label), self.see_native(label)
        add_others(self.results, self.runner, self.target, adapter, losses)
        for variant, strengths in VARIANTS.items():
            keys = [Key(self.target, adapter.name, variant, source, strength) for strength in strengths]
            if variant not in variants or not is_drawn(variant, self.target, label):
                continue
            if all(key in self.results.reports for key in keys):
                continue
            if variant == ANOTHER and not another(adapter, self.target).is_file():
                continue
            with moved_by(variant, adapter, source, self.runner.base) as path:
                for key in keys:
                    self._measured(key, path, key.strength, label, losses)

    def see_native(self, label: str) -> measure.Losses:
        """See the target alone and with the LoRA that was trained there; return what measures losses on what that is for."""
        adapter, losses = adapter_of(label), measure.of_adapter(self.runner, adapter_of(label))
        self._measured(Key(self.target, adapter.name, ALONE), None, 1.0, label, losses)
        for strength in STRENGTHS:
            key = Key(self.target, adapter.name, NATIVE, strength=strength)
            self._measured(key, adapter.path(self.target), strength, label, losses)
        return losses

    def _measured(self, key: Key, path: Path | None, strength: float, label: str, losses: measure.Losses) -> None:
        """Losses on what the adapter is for and on what is ordinary, then pictures; the last stored tells that all are."""
        if key in self.results.reports:
            return
        briefly = self.briefly or key.variant in BY_THE_WAY
        for on, where in () if briefly and key.strength != 1 else ((STYLE, losses), (ORDINARY, self.ordinary)):
            one = Key(key.target, key.adapter, key.variant, key.source, key.strength, on)
            if one not in self.results.losses:
                self.results.add_losses(one, where.of(path, strength))
        self.results.add_report(key, seen(self.runner, path, strength, adapter_of(label).icons))


def seen(runner: Runner, path: Path | None, strength: float, icons: str) -> dict[str, list[float]]:
    """How sure the judge is of the style or character in each picture, and how many of its choices fit it better than its own."""
    pictures, _ = generate(runner, path, prompts_of(icons), strength)
    certain, ranks = judged(pictures, PROMPTS * SEEDS, icons)
    return {"style": [round(one, 3) for one in certain.tolist()], "rank": ranks.tolist()}
