"""Runs the probe on every pair: what it says before a transfer, stored beside what the transfer turned out to be worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lab import data, probe
from lab.bundle import runner_of
from lab.results import Key, Results
from lab.variants import AUTO, COPY, STRENGTHS, VARIANTS, Variant, move, written
from lab.zoo import ADAPTERS, ALL_PAIRS, HEADLINE_RANK, STYLES, Adapter, checkpoint
from lorax.checkpoint import open_checkpoint
from lorax.runner import Runner

PROMPTS = 16
PROBED = (COPY, AUTO)


def prompts() -> list[str]:
    """Ordinary captions, none of which decides what an adapter is worth."""
    return data.captions_over(sorted(one for one in data.common_subjects() if not data.is_held_out(one)), PROMPTS)


def run(results: Results, pairs: Iterable[tuple[str, str]] = ALL_PAIRS) -> None:
    """Probe every style's adapter on every pair. What is stored already is not probed again, what is not trained left out."""
    adapters = [ADAPTERS[f"{style}-r{HEADLINE_RANK}"] for style in STYLES]
    runner = cache(runner_of)
    on_source = cache(lambda source, adapter: _OnSource.of(runner(source), adapter.path(source)))
    for source, target, adapter in tqdm([(*pair, one) for pair in pairs for one in adapters], desc="probe", mininterval=10):
        keys = {name: Key(target, adapter.name, name, source) for name in PROBED}
        if all(key in results.probes for key in keys.values()) or not adapter.path(source).is_file():
            continue
        known = on_source(source, adapter)
        for name, key in keys.items():
            results.add_probe(key, known.against(runner(target), VARIANTS[name], adapter, source))


@dataclass(frozen=True)
class _OnSource:
    """What the source does with an adapter, which is the same for every target."""

    inputs: probe.Inputs
    change: torch.Tensor
    pictures: torch.Tensor
    losses: dict[str, float]

    @classmethod
    def of(cls, source: Runner, path: Path) -> _OnSource:
        asked = prompts()
        inputs, pictures = probe.on_the_way(source, asked), probe.drawn(source, path, asked)
        losses = {"source_alone": None, "source_adapted": path}
        found = {name: probe.loss(source, adapter, pictures, asked) for name, adapter in losses.items()}
        return cls(inputs, probe.change(source, path, inputs), pictures, found)

    def against(self, target: Runner, variant: Variant, adapter: Adapter, source: str) -> dict[str, Any]:
        """The target alone, and with what the variant moves, if it moves anything."""
        found: dict[str, Any] = self.losses | {"target_alone": probe.loss(target, None, self.pictures, self.inputs.prompts)}
        planned, moved = move(variant, adapter, source, open_checkpoint(checkpoint(source)), target.base)
        with written(planned, moved) as path:
            if path is None:
                return found
            agreement = probe.agreement(self.change, probe.change(target, path, self.inputs))
            losses = {str(s): probe.loss(target, path, self.pictures, self.inputs.prompts, s) for s in STRENGTHS}
        return found | asdict(agreement) | {"target_adapted": losses}
