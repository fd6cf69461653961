"""Compares what readers have said of the pairs of sheets with the measure, and with each other."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.eye.blind import BLIND, EVENLY, KEY, digest, rival_of
from lab.eye.figures import HALVES
from lab.eye.looking import FOLDER

ASKED, NAME = ("style", "content"), "name"
SAME = "same"
MEASURE = "the measure"


@dataclass(frozen=True)
class Agreement:
    """Of the answers of one reader that are not ``same``, those with which somebody agrees."""

    right: int
    answers: int


class Readers:
    """The pairs on a target, and by reader what was said of each: ``A``, ``B`` or ``same``, by what was asked.

    Under ``NAME``, the style that a reader has seen there, if it was asked.
    """

    def __init__(self, results: Path, target: str) -> None:
        folder, self.rival = results / FOLDER / BLIND / target, rival_of(target)
        key = (folder / KEY).read_bytes() if (folder / KEY).is_file() else b"[]"
        self.pairs: list[dict[str, Any]] = json.loads(key)
        files = [file for file in sorted(folder.glob("*.json")) if file.name != KEY]
        self.said = {file.stem: _answers(file, digest(key), len(self.pairs)) for file in files}

    def agreements(self) -> Iterator[tuple[str, str, dict[str, Agreement]]]:
        """For what is asked, and each reader: with whom it agrees, the measure or another reader."""
        for what in ASKED:
            measured = [_larger(pair["a"][what], pair["b"][what]) for pair in self.pairs]
            for name, own in self.said.items():
                others = {MEASURE: measured} | {other: its[what] for other, its in self.said.items() if other != name}
                yield what, name, {other: _agreement(own[what], its) for other, its in others.items()}

    def named(self) -> dict[str, int]:
        """How many of the pairs' styles each reader that was asked has named."""
        asked = {who: zip(said[NAME], self.pairs, strict=True) for who, said in self.said.items() if any(said[NAME])}
        return {who: sum(name == pair["style"] for name, pair in told) for who, told in asked.items()}

    @property
    def even(self) -> list[tuple[int, dict[str, Any]]]:
        """The pairs, with their numbers, of refine and its rival with as many subjects."""
        return [(number, pair) for number, pair in enumerate(self.pairs) if pair[EVENLY]]

    def of_refine(self) -> Iterator[tuple[str, str, str, Counter[str]]]:
        """For what is asked, each half of the styles and each reader: how often refine, its rival, or neither has more of it."""
        for what, (half, styles) in itertools.product(ASKED, HALVES.items()):
            even = [(number, pair) for number, pair in self.even if pair["style"] in styles]
            for name, own in self.said.items() if even else ():
                answers = ((pair, own[what][number]) for number, pair in even)
                told = Counter(SAME if one == SAME else pair[one.lower()]["variant"] for pair, one in answers)
                yield what, half, name, told


def _answers(file: Path, pairs: str, count: int) -> dict[str, list[str]]:
    """By what was asked: an answer for each pair. Exits with a sentence if they are not for these pairs."""
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored["pairs"] != pairs or len(stored["answers"]) != count:
        sys.exit(f"{file}: answers to other pairs than those in {KEY}. Show the reader these, or remove the file.")
    answers = [stored["answers"][f"{number:02}"] for number in range(count)]
    return {what: [one[what] for one in answers] for what in ASKED} | {NAME: [one.get(NAME, "") for one in answers]}


def _larger(a: float, b: float) -> str:
    return SAME if a == b else "A" if a > b else "B"


def _agreement(own: list[str], its: list[str]) -> Agreement:
    both = [(mine, other) for mine, other in zip(own, its, strict=True) if SAME not in (mine, other)]
    return Agreement(sum(mine == other for mine, other in both), len(both))
