"""The judge of styles that differ to the eye: which of them a picture is in, and which subject it shows."""

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
from lab.zoo import SHOWN
from lorax.demo.bundle import BASE

JUDGE = HEADLINE / "judge" / "eye.safetensors.xz"
SETS = (*data.names("base"), *data.names("finetune"), *SHOWN)  # what the bases draw by themselves, and the styles
CERTAIN = {"style": 0.9, "subject_in_five": 0.7}  # wanted on icons that it has not seen; docs/seen.md says what falls short


def train_judge(folder: Path) -> Path:
    """Train on all but the held-out subjects in the styles."""
    return train_classifier(folder, JUDGE, SETS, SHOWN)


@cache
def judge() -> Classifier:
    return Classifier.load(JUDGE)


@cache
def choices() -> list[str]:
    """The subjects between which the judge chooses: those that no LoRA has seen.

    It has seen every other subject in every style, and none of these in any. So it would name one of those instead.
    """
    return [subject for subject in judge().subjects if subject != NONE and data.is_held_out(subject)]


def judged(pictures: torch.Tensor, prompts: Sequence[str], style: str) -> tuple[torch.Tensor, torch.Tensor]:
    """How sure the judge is of the style in each picture, and how many of its choices fit it better than its prompt."""
    certain = judge().style_probabilities(pictures)[:, judge().styles.index(style)]
    return certain, judge().subject_ranks(pictures, [prompt.replace(" ", "-") for prompt in prompts], choices())


def accuracies() -> dict[str, Accuracy]:
    """By style, on held-out subjects, through the autoencoder as every picture is."""
    everything, _ = labelled(SETS, SHOWN)
    unseen, vae = everything.where(everything.unseen), runner_of(BASE).vae
    found = {}
    for style in SHOWN:
        icons = unseen.where(unseen.styles == SETS.index(style))
        found[style] = accuracy(judge(), replace(icons, pictures=through(vae, icons.pictures)), choices())
    return found
