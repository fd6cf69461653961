"""Draws with what was moved, and judges the pictures: does the style arrive, is the content kept, do pictures still differ?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from lab import data, stats
from lab.bundle import runner_of
from lab.classifier import Classifier, accuracy, labelled, through
from lab.pictures import Judge, Measures, generate, held_out_prompts
from lab.report.tables import number
from lab.results import ALONE, NATIVE
from lab.variants import AUTO, BY_NAME, COPY, LORAX, VARIANTS, kept_file, move, written
from lab.zoo import ADAPTERS, CROSSING, HEADLINE_PAIRS, HEADLINE_RANK, STYLES, checkpoint
from lorax.checkpoint import open_checkpoint
from lorax.demo.grid import draw
from lorax.methods import BEHAVIOURAL, BRIDGE, REFINE
from lorax.runner import Runner

DRAWN = (ALONE, BY_NAME, COPY, AUTO, LORAX, BRIDGE, REFINE, NATIVE)
SHOWN = 8  # prompts in a grid
MEASURED = {"style": "style arrives", "distance": "distance to real", "kept": "content kept", "diversity": "diversity"}


def run(results: Path, grids: Path) -> None:
    """Write ``pictures.json`` into ``results``, and a grid for each pair into ``grids``."""
    classifier = Classifier.load()
    prompts, rows = held_out_prompts(classifier), []
    for source, target in (*HEADLINE_PAIRS, CROSSING):
        runner, grid, variants = runner_of(target), [], _variants(source, target)
        found: dict[str, list[Measures]] = {variant: [] for variant in variants}
        for style in tqdm(STYLES, desc=f"pictures of {target}"):
            judge = Judge.of_icons(classifier, style, runner.vae)
            for variant, adapter in _adapters(runner, source, target, f"{style}-r{HEADLINE_RANK}", variants):
                pictures, asked = generate(runner, adapter, prompts)
                found[variant].append(judge.measures(pictures, asked))
                if style == STYLES[0] or variant != ALONE:
                    grid.append((style if variant != ALONE else target, variant, pictures[:SHOWN]))
        rows += [{"pair": f"{source} to {target}", "variant": variant} | _cells(found[variant]) for variant in variants]
        grids.mkdir(parents=True, exist_ok=True)
        draw(grid, prompts[:SHOWN], grids / f"{source}-to-{target}.png", inches=0.7, palette=True)
    content = {"rows": rows, "sentences": list(_accuracies(classifier))}
    (results / "pictures.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _variants(source: str, target: str) -> list[str]:
    """Across structures none that does not run the models; of those that do, what the sweep has left of all styles."""
    adapters = [ADAPTERS[f"{style}-r{HEADLINE_RANK}"] for style in STYLES]
    left = {name for name in BEHAVIOURAL if all(kept_file(VARIANTS[name], one, source, target).is_file() for one in adapters)}
    fixed = {ALONE, NATIVE} if (source, target) == CROSSING else set(DRAWN) - set(BEHAVIOURAL)
    return [variant for variant in DRAWN if variant in left | fixed]


def _adapters(runner: Runner, source: str, target: str, name: str, variants: list[str]) -> Iterator[tuple[str, Path | None]]:
    """Variant -> the file to draw with; None draws with the target alone, as where nothing is moved."""
    adapter = ADAPTERS[name]
    for variant in variants:
        if variant in (ALONE, NATIVE):
            yield variant, adapter.path(target) if variant == NATIVE else None
            continue
        if variant in BEHAVIOURAL:
            yield variant, kept_file(VARIANTS[variant], adapter, source, target)
            continue
        planned, moved = move(VARIANTS[variant], adapter, source, open_checkpoint(checkpoint(source)), runner.base)
        with written(planned, moved) as path:
            yield variant, path


def _cells(measures: list[Measures]) -> dict[str, str]:
    """The mean over styles and pictures with its interval: prompts are drawn anew, with all their styles and seeds."""
    prompts = list(dict.fromkeys(measures[0].prompts))
    cells = {}
    for name, title in MEASURED.items():
        of_prompt = [
            [value for one in measures for value, asked in zip(getattr(one, name), one.prompts, strict=True) if asked == prompt]
            for prompt in prompts
        ]
        cells[title] = number(stats.mean(torch.tensor(of_prompt).mean(1)))
    return cells


def _accuracies(classifier: Classifier) -> Iterator[str]:
    """How far the judge is to be trusted, on icons that it has not seen, through the autoencoder as every picture is."""
    everything, _ = labelled()
    unseen = everything.where(everything.unseen)
    vae = runner_of(HEADLINE_PAIRS[0][0]).vae
    for style in STYLES:
        icons = unseen.where(unseen.styles == list(data.SETS).index(style))
        found = accuracy(classifier, replace(icons, pictures=through(vae, icons.pictures)))
        yield (
            f"The judge on {len(icons.styles)} unseen icons of {style}, through the autoencoder: style {found.style:.2f}, "
            f"subject {found.subject:.2f}, subject among the first five {found.subject_in_five:.2f}."
        )
