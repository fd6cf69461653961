"""Runs the probe on every pair: what it says before a transfer, stored beside what the transfer turned out to be worth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lab import data
from lab.bundle import runner_of
from lab.results import Key, Results
from lab.variants import AUTO, COPY, LORAX, STRENGTHS, VARIANTS, move
from lab.zoo import ADAPTERS, ALL_PAIRS, HEADLINE_RANK, STYLES, Adapter, checkpoint
from lorax import probe
from lorax.checkpoint import open_checkpoint
from lorax.formats import writer
from lorax.runner import Runner

PROMPTS = 16
PROBED = (COPY, LORAX, AUTO)


def prompts() -> list[str]:
    """Ordinary captions, none of which decides what an adapter is worth."""
    known = sorted(subject for subject in data.common_subjects() if not data.is_held_out(subject))
    return [known[i * len(known) // PROMPTS].replace("-", " ") for i in range(PROMPTS)]


def run(results: Results, pairs: Iterable[tuple[str, str]] = ALL_PAIRS) -> None:
    """Probe every style's adapter on every pair, as far as it is made. What is stored already is not probed again."""
    adapters = [ADAPTERS[f"{style}-r{HEADLINE_RANK}"] for style in STYLES]
    wanted = [(source, target, one) for source, target in pairs for one in adapters if one.path(source).is_file()]
    runners: dict[str, Runner] = {}
    for source, target, adapter in tqdm(wanted, desc="probe", mininterval=10):
        keys = [Key(target, adapter.name, name, source) for name in PROBED]
        if all(key in results.probes for key in keys):
            continue
        for name in (source, target):
            if name not in runners:
                runners[name] = runner_of(name)
        for key, found in zip(keys, _probe(runners[source], runners[target], source, adapter), strict=True):
            results.add_probe(key, found)


def _probe(source: Runner, target: Runner, source_name: str, adapter: Adapter) -> Iterable[dict[str, Any]]:
    path, asked = adapter.path(source_name), prompts()
    inputs = probe.on_the_way(source, asked)
    d_s, pictures = probe.change(source, path, inputs), probe.drawn(source, path, asked)
    known = {
        "source_alone": probe.loss(source, None, pictures, asked),
        "source_adapted": probe.loss(source, path, pictures, asked),
        "target_alone": probe.loss(target, None, pictures, asked),
    }
    for name in PROBED:
        planned, moved = move(VARIANTS[name], adapter, source_name, open_checkpoint(checkpoint(source_name)), target.base)
        if not moved.layers:
            yield known
            continue
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "moved.safetensors"
            writer.write(planned, moved, written, dtype="fp32")
            found = probe.agreement(d_s, probe.change(target, written, inputs))
            losses = {str(s): probe.loss(target, written, pictures, asked, s) for s in STRENGTHS}
        yield known | asdict(found) | {"target_adapted": losses}
