"""Draws pairs of sheets for readers who are not told what is on them, and grids with names for the docs."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from lab.bundle import runner_of
from lab.eye.figures import curve, is_there
from lab.eye.ideas import STRENGTHS, is_drawn, moved_by
from lab.eye.judge import judged
from lab.eye.looking import FOLDER, PAIRS, PROMPTS, adapter_of, prompts_of
from lab.paths import CACHE, DOCS
from lab.pictures import GUIDANCE, STEPS, TOP
from lab.results import ALONE, NATIVE, Results
from lab.variants import COPY, LORAX
from lab.zoo import CHARACTERS, SHOWN, are_related
from lorax.demo.grid import draw
from lorax.methods import BRIDGE, REFINE

Of = tuple[str, float]  # variant, strength
COUNT, ACROSS, WIDE = 30, 6, 128  # pairs of sheets; pictures in a row of a sheet; pixels of a picture
SHEETS: tuple[Of, ...] = (
    *((ALONE, 1.0), (NATIVE, 1.0), (NATIVE, 0.5), (LORAX, 1.0), (LORAX, 1.5), (REFINE, 1.0)),
    *((COPY, strength) for strength in (0.25, 0.5, 0.75, 1.0, 1.25)),
)
EVEN = (0.75, 1.0)  # strengths of refine's rival, beside which refine is to be told apart
UNLIKE: tuple[Of, ...] = ((REFINE, 0.75), (REFINE, 1.5), (BRIDGE, 1.0))  # besides, where a copy does nothing
IN_A_GRID: tuple[Of, ...] = (
    *((ALONE, 1.0), (NATIVE, 1.0), (COPY, 0.5), (COPY, 1.0), (LORAX, 1.0)),
    *((REFINE, 1.0), (BRIDGE, 1.0)),
)
RUNNERS = cache(runner_of)  # by target
COLUMNS = 8  # pictures in a row of a grid
BLIND, KEY = "blind", "pairs.json"  # of each target, in lab/.cache the pairs as pictures, and beside the results what is on them
EVENLY = "even"  # in the latter, whether a pair is refine and its rival with as many subjects
GRIDS = DOCS / "seen"


@dataclass(frozen=True)
class Sheet:
    """A sheet of one picture for each prompt, and what the judge says of it: both are shares."""

    variant: str
    strength: float
    style: float
    content: float


@dataclass(frozen=True)
class Drawer:
    """Draws with one LoRA on one target."""

    source: str
    target: str
    style: str

    @property
    def is_ready(self) -> bool:
        return all(adapter_of(self.style).path(base).is_file() for base in (self.source, self.target))

    def sheet(self, of: Of) -> Sheet:
        certain, ranks = judged(_pictures(self, of), PROMPTS, adapter_of(self.style).icons)
        return Sheet(*of, round(certain.mean().item(), 4), round((ranks < TOP).float().mean().item(), 4))

    def draws(self, of: Of) -> bool:
        return of[0] in (ALONE, NATIVE) or is_drawn(of[0], self.target, self.style)

    @property
    def sheets(self) -> list[Of]:
        """What is drawn for readers. Where a copy does nothing it is left out."""
        if rival_of(self.target) == COPY:
            return [of for of in SHEETS if self.draws(of)]
        return [of for of in (*SHEETS, *UNLIKE) if of[0] != COPY and self.draws(of)]

    @property
    def pairs(self) -> list[tuple[Of, Of]]:
        """Sheets that can be set side by side."""
        return list(itertools.combinations(self.sheets, 2))

    def even(self, results: Results) -> list[tuple[Of, Of]]:
        """Sheets of refine and its rival, refine at the largest strength at which it keeps as many subjects as its rival."""
        rival = rival_of(self.target)
        curves = [(REFINE, self.source), (rival, "" if rival == NATIVE else self.source)]
        if not all(is_there(results, self.target, *of, self.style) for of in curves):
            return []
        refined, other = (self._kept(results, *of) for of in curves)
        most = {one: max((s for s in STRENGTHS if refined[s] >= other[one]), default=STRENGTHS[0]) for one in EVEN}
        return [((rival, one), (REFINE, strength)) for one, strength in most.items()]

    def _kept(self, results: Results, variant: str, source: str) -> dict[float, float]:
        """The share of subjects that are kept, by strength."""
        found = curve(results, self.target, variant, source, self.style)
        return dict(zip(found.strengths, found.content.mean(1), strict=True))

    def grid(self) -> None:
        shown = filter(self.draws, IN_A_GRID)
        rows = [(variant, f"at {strength:g}", _pictures(self, (variant, strength))[:COLUMNS]) for variant, strength in shown]
        draw(rows, list(PROMPTS[:COLUMNS]), GRIDS / f"{self.target}-{self.style}.webp", inches=0.55)


def rival_of(target: str) -> str:
    """Return what refine is to be told apart from: a copy, or the native LoRA where a copy does nothing."""
    return COPY if all(are_related(*pair) for pair in PAIRS if pair[1] == target) else NATIVE


def blind(options: argparse.Namespace) -> None:
    """Draw pairs into lab/.cache/blind, and store what is on them, target by target."""
    for target, drawers in _drawers(options, SHOWN).items():
        _ask(drawers, Results(options.results / FOLDER), CACHE / BLIND / target, options.results / FOLDER / BLIND / target)


def grids(options: argparse.Namespace) -> None:
    """Draw grids with names for docs/seen.md, of styles and characters."""
    for drawers in _drawers(options, (*SHOWN, *CHARACTERS)).values():
        for one in drawers:
            one.grid()


def _drawers(options: argparse.Namespace, styles: Sequence[str]) -> dict[str, list[Drawer]]:
    """By target, if a LoRA to draw with is there. Exits with a sentence if none is."""
    wanted = [pair for pair in PAIRS if options.target in (None, pair[1])]
    every = {target: [Drawer(source, target, style) for style in styles] for source, target in wanted}
    found = {target: ready for target, its in every.items() if (ready := [one for one in its if one.is_ready])}
    return found or sys.exit('No pair with LoRAs to draw with is there: run `python -m lab loras --only "*-long-*"` first.')


def _ask(drawers: list[Drawer], results: Results, pictures: Path, folder: Path) -> None:
    for one in (pictures, folder):
        one.mkdir(parents=True, exist_ok=True)
    stored = []
    for number, (drawer, pair, is_even) in enumerate(_pairs(drawers, results)):
        _beside(*(_image(_pictures(drawer, of)) for of in pair)).save(pictures / f"{number:02}.png")
        a, b = (asdict(drawer.sheet(of)) for of in pair)
        stored.append({"style": drawer.style, EVENLY: is_even, "a": a, "b": b})
    key = json.dumps(stored, indent=1).encode()
    (folder / KEY).write_bytes(key)
    print(f"{pictures}: {len(stored)} pairs, A above B. A reader's answers go to {folder}/NAME.json:")
    print(f'{{"pairs": "{digest(key)}", "answers": {{"00": {{"style": "A", "content": "same", "name": "{SHOWN[0]}"}}, ...}}}}')


def digest(key: bytes) -> str:
    """What a reader's file names, so that its answers are not taken for those to other pairs."""
    return hashlib.sha256(key).hexdigest()[:12]


@cache
def _pictures(drawer: Drawer, of: Of) -> torch.Tensor:
    """One picture for each prompt, (prompts, 3, SIZE, SIZE) in [0, 1]."""
    (variant, strength), runner = of, RUNNERS(drawer.target)
    with runner.adapted(_file(drawer, variant), strength):
        prompts = prompts_of(adapter_of(drawer.style).icons)
        return runner.sample(prompts, list(range(len(PROMPTS))), steps=STEPS, guidance=GUIDANCE)


@cache
def _file(drawer: Drawer, variant: str) -> Path | None:
    """The LoRA to draw with. What is moved takes minutes, and is drawn with at several strengths."""
    adapter = adapter_of(drawer.style)
    if variant in (ALONE, NATIVE):
        return adapter.path(drawer.target) if variant == NATIVE else None
    with moved_by(variant, adapter, drawer.source, RUNNERS(drawer.target).base) as path:
        kept = CACHE / BLIND / drawer.target / f"{drawer.style}-{variant}.safetensors"
        kept.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(path, kept)) if path else None


def _pairs(drawers: list[Drawer], results: Results) -> Iterator[tuple[Drawer, tuple[Of, Of], bool]]:
    """What is set side by side, and whether it is refine and its rival with as many subjects, as half of it is at most.

    No two sheets come twice, and their order and which one is above tell nothing.
    """
    chosen = random.Random(0)
    even = [(drawer, pair, True) for drawer in drawers for pair in drawer.even(results)]
    asked = chosen.sample(even, min(len(even), COUNT // 2))
    known = {(drawer, frozenset(pair)) for drawer, pair, _ in asked}
    others = [(one, pair, False) for one in drawers for pair in one.pairs if (one, frozenset(pair)) not in known]
    pairs = asked + chosen.sample(others, COUNT - len(asked))
    for drawer, (a, b), is_even in chosen.sample(pairs, len(pairs)):
        yield drawer, ((a, b) if chosen.random() < 0.5 else (b, a)), is_even


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
