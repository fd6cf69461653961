"""The judges: in which style that differs to the eye a picture is, or which character is in it, and which subject it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from lab import data
from lab.bundle import runner_of
from lab.classifier import NONE, Accuracy, Classifier, accuracy, labelled, through, train_classifier
from lab.paths import HEADLINE
from lab.zoo import CHARACTERS, SHOWN
from lorax.demo.bundle import BASE, PACKED

JUDGES = {SHOWN: "eye", CHARACTERS: "characters"}  # by what each tells apart
PLAIN = (*data.names("base"), *data.names("finetune"))  # what the bases draw by themselves
CERTAIN = {"style": 0.9, "subject_in_five": 0.7}  # wanted on icons that it has not seen; docs/seen.md says what falls short


def train_judges(folder: Path) -> None:
    """Train each on all but the held-out subjects in the styles, or with the characters."""
    for classes, name in JUDGES.items():
        train_classifier(folder, _file(name), (*PLAIN, *classes), classes)


def _file(name: str) -> Path:
    return HEADLINE / "judge" / f"{name}{PACKED}"


@cache
def judge(classes: tuple[str, ...]) -> Classifier:
    return Classifier.load(_file(JUDGES[classes]))


@cache
def choices(classes: tuple[str, ...]) -> list[str]:
    """The subjects between which the judge chooses: those that no LoRA has seen.

    It has seen every other subject in every style, and none of these in any. So it would name one of those instead.
    """
    return [subject for subject in judge(classes).subjects if subject != NONE and data.is_held_out(subject)]


def judged(pictures: torch.Tensor, subjects: Sequence[str], icons: str) -> tuple[torch.Tensor, torch.Tensor]:
    """How sure the judge is of the style or character in each picture, and how many of its choices fit it better than its own."""
    classes = CHARACTERS if icons in CHARACTERS else SHOWN
    certain = judge(classes).style_probabilities(pictures)[:, judge(classes).styles.index(icons)]
    return certain, judge(classes).subject_ranks(pictures, [subject.replace(" ", "-") for subject in subjects], choices(classes))


def accuracies(classes: tuple[str, ...]) -> dict[str, Accuracy]:
    """By style or character, on held-out subjects, through the autoencoder as every picture is."""
    sets = (*PLAIN, *classes)
    everything, _ = labelled(sets, classes)
    unseen, vae = everything.where(everything.unseen), runner_of(BASE).vae
    found = {}
    for one in classes:
        icons = unseen.where(unseen.styles == sets.index(one))
        found[one] = accuracy(judge(classes), replace(icons, pictures=through(vae, icons.pictures)), choices(classes))
    return found
