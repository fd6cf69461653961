"""Draws with what was moved, and judges the pictures: does the style arrive, is the content kept, do pictures still differ?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
from lorax.methods import BRIDGE, REFINE
from lorax.runner import Runner

# What is drawn and judged: what weights alone give on the headline's pairs, and what running the models gives from the base.
SETS = {"weights": (ALONE, BY_NAME, COPY, AUTO, LORAX, NATIVE), "models": (ALONE, BRIDGE, REFINE, NATIVE)}
PAIRS = {
    "weights": HEADLINE_PAIRS,
    "models": (*(pair for pair in HEADLINE_PAIRS if pair[0] == CROSSING[0]), CROSSING),
}
MEASURED = {"style": "style arrives", "distance": "distance to real", "kept": "content kept", "diversity": "diversity"}


def run(results: Path, sets: Sequence[str] = tuple(SETS), only: str | None = None) -> None:
    """Write ``pictures.json`` into ``results``, where other rows stay.

    ``only``: the one target to draw on; None: all.
    """
    classifier, file = Classifier.load(), results / "pictures.json"
    prompts, rows = held_out_prompts(classifier), _stored(file)
    for of in sets:
        for source, target in PAIRS[of]:
            if only not in (None, target):
                continue
            runner = runner_of(target)
            found: dict[str, list[Measures]] = {variant: [] for variant in SETS[of]}
            for style in tqdm(STYLES, desc=f"pictures of {target}", mininterval=10):
                judge = Judge.of_icons(classifier, style, runner.vae)
                for variant, adapter in _adapters(runner, source, target, f"{style}-r{HEADLINE_RANK}", SETS[of]):
                    pictures, asked = generate(runner, adapter, prompts)
                    found[variant].append(judge.measures(pictures, asked))
            rows |= {(f"{source} to {target}", variant): _cells(found[variant]) for variant in SETS[of]}
    pairs, variants = ([*dict.fromkeys(one for its in both.values() for one in its)] for both in (PAIRS, SETS))
    order = sorted(rows, key=lambda row: (pairs.index(tuple(row[0].split(" to "))), variants.index(row[1])))
    content = {
        "rows": [{"pair": pair, "variant": variant} | rows[pair, variant] for pair, variant in order],
        "sentences": list(_accuracies(classifier)),
    }
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _stored(file: Path) -> dict[tuple[str, str], dict[str, str]]:
    """By pair and variant."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    return {(row.pop("pair"), row.pop("variant")): row for row in rows}


def _adapters(runner: Runner, source: str, target: str, name: str, variants: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Variant -> the file to draw with; None draws with the target alone, as where nothing is moved."""
    adapter = ADAPTERS[name]
    for variant in variants:
        if variant in (ALONE, NATIVE):
            yield variant, adapter.path(target) if variant == NATIVE else None
            continue
        if (kept := kept_file(VARIANTS[variant], adapter, source, target)).is_file():  # of what takes minutes
            yield variant, kept
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
