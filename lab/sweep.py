"""Measures transfers, target by target. What is stored already is not measured again."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from tqdm import tqdm

from lab import facts, measure
from lab.bundle import runner_of
from lab.results import ALONE, NATIVE, ORDINARY, STYLE, Key, Results, native_of
from lab.variants import (
    CHANGE,
    FROM_BRIDGE,
    HIGHER,
    STEPS,
    STRENGTHS,
    VARIANTS,
    Variant,
    asked,
    kept_file,
    move,
    moving,
    written,
)
from lab.zoo import (
    ADAPTERS,
    ALL_PAIRS,
    CONCEPT,
    HEADLINE_PAIRS,
    HEADLINE_RANK,
    SCRATCH,
    STYLES,
    XL,
    Adapter,
    are_related,
    checkpoint,
    others,
)
from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.low_rank import LowRank
from lorax.methods import BRIDGE, REFINE, runs_models
from lorax.models import Watch, adapted
from lorax.runner import Runner

Task = tuple[str, str, Adapter, Variant]  # source, target, adapter, variant


def headline(*icons: str) -> Iterator[Task]:
    """Of every style, for which all that is needed is committed, or of the icons named."""
    for source, target in HEADLINE_PAIRS:
        for name in icons or STYLES:
            for variant in asked("headline"):
                yield source, target, ADAPTERS[f"{name}-r{HEADLINE_RANK}"], variant


def full() -> Iterator[Task]:
    """The headline and the concept, other ranks, every pair; last, between relatives, the sweeps of kept rank and threshold."""
    yield from headline(*STYLES, CONCEPT)
    variants = asked("headline")
    adapters = [adapter for adapter in ADAPTERS.values() if adapter.is_style]
    yield from ((*pair, adapter, variant) for pair in HEADLINE_PAIRS for adapter in adapters for variant in variants)
    few = [adapter for adapter in adapters if adapter.rank == HEADLINE_RANK]
    yield from ((*pair, adapter, variant) for pair in ALL_PAIRS for adapter in few for variant in variants)
    sweeps = [*asked("rank"), *asked("threshold")]
    relatives = [pair for pair in HEADLINE_PAIRS if are_related(*pair)]
    yield from ((*pair, adapter, variant) for pair in relatives for adapter in few for variant in sweeps)


def behaviour() -> Iterator[Task]:
    """What runs the models, from the base to every other base of the headline, and across structures."""
    asked_of = {
        FINETUNE: (BRIDGE, REFINE, HIGHER, CHANGE),
        PRUNED: (BRIDGE, REFINE),
        SCRATCH: (BRIDGE, REFINE, HIGHER, FROM_BRIDGE),
        XL: (BRIDGE, REFINE, HIGHER),
    }
    for style in STYLES:
        for target, names in asked_of.items():
            for name in names:
                yield BASE, target, ADAPTERS[f"{style}-r{HEADLINE_RANK}"], VARIANTS[name]


def run(tasks: Iterable[Task], results: Results) -> None:
    """Measure on each target in turn, and say how long it took and what could not be measured."""
    by_target: dict[str, list[Task]] = {}
    missing = set()
    for source, target, adapter, variant in tasks:
        needed = adapter.path(source), adapter.path(target), moving(variant, adapter).path(source)
        missing |= (absent := {path.name for path in needed if not path.is_file()})
        if not absent:
            by_target.setdefault(target, []).append((source, target, adapter, variant))
    if missing:
        print(f"left out what needs {len(missing)} LoRAs that lab loras has not made yet, such as {min(missing)}")
    for target, its_tasks in by_target.items():
        began = time.monotonic()
        try:
            _Target(target, results).run(list(dict.fromkeys(its_tasks)))
        finally:  # a sweep that is stopped has taken its time too
            minutes = (time.monotonic() - began) / 60
            results.add_minutes(target, minutes)
            print(f"{target}: {minutes:.1f} minutes")


class _Target:
    """One base with all that is measured on it."""

    def __init__(self, name: str, results: Results) -> None:
        self.name, self.results, self.runner = name, results, runner_of(name)
        self.ordinary = measure.of_ordinary(self.runner, name)
        self.known: dict[tuple[str, str, float, str], torch.Tensor] = {}  # equal files need no second measurement

    def run(self, tasks: list[Task]) -> None:
        measured: dict[str, measure.Losses] = {}
        for source, _, adapter, variant in tqdm(tasks, desc=f"to {self.name}", mininterval=10):
            if adapter.name not in measured:
                measured[adapter.name] = measure.of_adapter(self.runner, adapter)
                self._yardsticks(adapter, measured[adapter.name])
            self._transfer(source, adapter, variant, measured[adapter.name])

    def _yardsticks(self, adapter: Adapter, losses: measure.Losses) -> None:
        for on, where in ((STYLE, losses), (ORDINARY, self.ordinary)):
            key = Key(self.name, adapter.name, ALONE, on=on)
            if key not in self.results.losses:
                self.results.add_losses(key, where.of(None))
            for strength in STRENGTHS if on == STYLE else (1.0,):
                key = Key(self.name, adapter.name, NATIVE, strength=strength, on=on)
                if key not in self.results.losses:
                    self.results.add_losses(key, where.of(adapter.path(self.name), strength))
        add_others(self.results, self.runner, self.name, adapter, losses)

    def _transfer(self, source: str, adapter: Adapter, variant: Variant, losses: measure.Losses) -> None:
        key = Key(self.name, adapter.name, variant.name, source)
        wanted = [(Key(self.name, adapter.name, variant.name, source, s), losses) for s in variant.strengths]
        if variant.question in ("headline", "behaviour"):
            wanted.append((Key(self.name, adapter.name, variant.name, source, on=ORDINARY), self.ordinary))
        wanted = [(one, where) for one, where in wanted if one not in self.results.losses]
        if not wanted and key in self.results.reports:
            return
        began = time.monotonic()
        watch = self._watching(source, adapter, variant, losses)
        planned, moved = move(variant, adapter, source, open_checkpoint(checkpoint(source)), self.runner.base, watch)
        self.results.add_report(key, facts.stored(moved.report) | {"seconds": round(time.monotonic() - began, 2)})
        content = _digest(moved.layers)
        with written(planned, moved) as path:
            if path is not None and runs_models(variant.options.method):
                kept = kept_file(variant, adapter, source, self.name)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, kept)
            for one, where in wanted:
                same = (content, adapter.name, one.strength, one.on)
                if same not in self.known:
                    self.known[same] = where.of(path, one.strength)
                self.results.add_losses(one, self.known[same])

    def _watching(self, source: str, adapter: Adapter, variant: Variant, losses: measure.Losses) -> Watch:
        """Stores what is recovered after some of refine's steps."""

        def watch(step: int, loss: float, layers: Mapping[str, LowRank]) -> None:
            key = Key(self.name, adapter.name, variant.at(step), source)
            if step in STEPS and key not in self.results.losses:
                with adapted(self.runner, layers):
                    self.results.add_losses(key, losses.of(None))

        return watch


def add_others(results: Results, runner: Runner, base: str, adapter: Adapter, losses: measure.Losses) -> None:
    """What other styles' natives gain on this style's icons, at its native's norm: it is no sign of the style."""
    wanted = {other.icons for other in others(adapter)}
    if all(Key(base, adapter.name, native_of(style)) in results.losses for style in wanted):
        return
    for style, path, strength in measure.other_natives(runner, adapter, base):
        key = Key(base, adapter.name, native_of(style))
        if key not in results.losses:
            results.add_losses(key, losses.of(path, strength))


def _digest(layers: dict[str, Any]) -> str:
    content = hashlib.sha256()
    for layer, delta in sorted(layers.items()):
        content.update(layer.encode())
        content.update((delta.scale * delta.up).numpy().tobytes() + delta.down.numpy().tobytes())
    return content.hexdigest()
