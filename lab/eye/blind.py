"""Pairs of sheets to be looked at by readers who are not told what is on them, and how often the measure agrees with them."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

from lab.bundle import runner_of
from lab.eye.ideas import moved_by
from lab.eye.judge import judged
from lab.eye.looking import FOLDER, PROMPTS, adapter_of
from lab.paths import CACHE
from lab.pictures import GUIDANCE, STEPS, TOP
from lab.results import ALONE, NATIVE
from lab.variants import COPY, LORAX
from lab.zoo import SHOWN
from lorax.demo.bundle import BASE, FINETUNE
from lorax.demo.grid import draw
from lorax.methods import REFINE
from lorax.runner import Runner

PAIRS, ACROSS, WIDE = 30, 6, 128  # pairs; pictures in a row of a sheet; pixels of a picture
SHEETS = (
    *((ALONE, 1.0), (NATIVE, 1.0), (NATIVE, 0.5), (LORAX, 1.0), (LORAX, 1.5), (REFINE, 1.0)),
    *((COPY, strength) for strength in (0.25, 0.5, 0.75, 1.0, 1.25)),
)
IN_A_GRID = ((ALONE, 1.0), (NATIVE, 1.0), (COPY, 0.5), (COPY, 1.0), (LORAX, 1.0), (REFINE, 1.0))  # with names, for the docs
COLUMNS = 8  # pictures in a row of a grid
ASKED = ("style", "content")
FOLDER_OF_PAIRS, KEY = CACHE / "blind", "blind.json"
GRIDS = Path(__file__).parents[2] / "docs" / "seen"
SAME = "same"


@dataclass(frozen=True)
class Sheet:
    """A sheet of one picture for each prompt, and what the judge says of it: both are shares."""

    variant: str
    strength: float
    style: float
    content: float


@dataclass(frozen=True)
class Agreement:
    """Of the answers of one reader that are not ``same``, those with which somebody agrees."""

    right: int
    answers: int


def blind(options: argparse.Namespace) -> None:
    """Draw the pairs into lab/.cache/blind, and store what is on them; draw a grid with names of each style for docs/seen.md."""
    FOLDER_OF_PAIRS.mkdir(parents=True, exist_ok=True)
    runner = runner_of(FINETUNE)
    styles = [style for style in SHOWN if all(adapter_of(style).path(base).is_file() for base in (BASE, FINETUNE))]
    stored, chosen = [], random.Random(0)
    drawn = {(style, of): _pictures(runner, style, *of) for style in styles for of in SHEETS}
    for number in range(PAIRS):
        style = styles[number % len(styles)]
        pair = chosen.sample(SHEETS, 2)
        sheets = [_judged(drawn[style, of], style, *of) for of in pair]
        _beside(*(_image(drawn[style, of]) for of in pair)).save(FOLDER_OF_PAIRS / f"{number:02}.png")
        stored.append({"style": style, "a": asdict(sheets[0]), "b": asdict(sheets[1])})
    (options.results / FOLDER / KEY).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    for style in styles:
        rows = [(variant, f"at {of:g}", drawn[style, (variant, of)][:COLUMNS]) for variant, of in IN_A_GRID]
        draw(rows, list(PROMPTS[:COLUMNS]), GRIDS / f"{FINETUNE}-{style}.png", inches=0.55, palette=True)
    print(f"{FOLDER_OF_PAIRS}: {PAIRS} pairs, A above B. A reader's answers go to {options.results / FOLDER}/reader-NAME.json:")
    print('{"00": {"style": "A", "content": "same"}, ...}: on which more of the style is seen, and more subjects are recognised.')


def _pictures(runner: Runner, style: str, variant: str, strength: float) -> torch.Tensor:
    """One picture for each prompt, (prompts, 3, SIZE, SIZE) in [0, 1]."""
    adapter = adapter_of(style)
    if variant in (ALONE, NATIVE):
        return _drawn(runner, adapter.path(FINETUNE) if variant == NATIVE else None, strength)
    with moved_by(variant, adapter, BASE, runner.base) as path:
        return _drawn(runner, path, strength)


def _drawn(runner: Runner, adapter: Path | None, strength: float) -> torch.Tensor:
    with runner.adapted(adapter, strength):
        return runner.sample(list(PROMPTS), list(range(len(PROMPTS))), steps=STEPS, guidance=GUIDANCE)


def _judged(pictures: torch.Tensor, style: str, variant: str, strength: float) -> Sheet:
    certain, ranks = judged(pictures, PROMPTS, style)
    return Sheet(variant, strength, round(certain.mean().item(), 4), round((ranks < TOP).float().mean().item(), 4))


def _image(pictures: torch.Tensor) -> Image.Image:
    rows = [torch.cat(list(row), 2) for row in pictures.split(ACROSS)]
    values = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    return Image.fromarray(values).resize((ACROSS * WIDE, len(rows) * WIDE), Image.Resampling.LANCZOS)


def _beside(above: Image.Image, below: Image.Image) -> Image.Image:
    """One sheet above the other, with a bar between them."""
    width, height = above.size
    both = Image.new("RGB", (width, 2 * height + 16), "red")
    both.paste(above, (0, 0))
    both.paste(below, (0, height + 16))
    return both


def agreements(results: Path) -> Iterator[tuple[str, str, dict[str, Agreement]]]:
    """For what is asked, and each reader: with whom it agrees, the measure or another reader."""
    if not (results / FOLDER / KEY).is_file():
        return
    pairs = json.loads((results / FOLDER / KEY).read_text(encoding="utf-8"))
    files = sorted((results / FOLDER).glob("reader-*.json"))
    readers = {file.stem.partition("-")[2]: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for what in ASKED:
        measured = {f"{number:02}": _larger(pair["a"][what], pair["b"][what]) for number, pair in enumerate(pairs)}
        said = {name: {number: answer[what] for number, answer in answers.items()} for name, answers in readers.items()}
        for name, own in said.items():
            others = {"the measure": measured} | {other: its for other, its in said.items() if other != name}
            yield what, name, {other: _agreement(own, its) for other, its in others.items()}


def _larger(a: float, b: float) -> str:
    return SAME if a == b else "A" if a > b else "B"


def _agreement(own: dict[str, str], its: dict[str, str]) -> Agreement:
    both = [number for number, answer in own.items() if SAME not in (answer, its[number])]
    return Agreement(sum(own[number] == its[number] for number in both), len(both))
