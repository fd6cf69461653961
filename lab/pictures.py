"""What a transfer is worth by the pictures that it gives: does the style arrive, is the content kept, do pictures still differ?

The judge is ``lab.classifier``. Its distances are in standard deviations of a feature over real icons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lab import data
from lab.classifier import NONE, Classifier, through
from lorax.runner import Runner

PROMPTS, SEEDS = 12, 2
STEPS, GUIDANCE = 20, 3.0
TOP = 5  # content is kept if the prompt's subject is among this many that fit a picture best


@dataclass(frozen=True)
class Measures:
    """Of pictures that differ in prompt and seed; every list has one entry per picture, in the order of ``prompts``.

    The pictures of one prompt belong together: a bootstrap has to draw prompts.
    """

    prompts: list[str]
    style: list[float]  # probability of the wanted style
    # The mean is the squared energy distance from the style's real icons, without bias, so that it may fall below 0; what a
    # picture adds to it is its influence, so that a bootstrap of the mean is right to first order.
    distance: list[float]
    rank: list[int]  # how many subjects fit the picture better than its prompt
    diversity: list[float]  # mean distance from the pictures of the same prompt; noise is diverse, so read it with ``kept``

    @property
    def kept(self) -> list[float]:
        """1 where the content is kept, 0 where it is not. Read it next to that of real icons of the style, its ceiling."""
        return [float(rank < TOP) for rank in self.rank]


class Judge:
    """Compares pictures (N, 3, SIZE, SIZE) in [0, 1] with real ones of a style, given as features (M, D)."""

    def __init__(self, classifier: Classifier, style: str, real: torch.Tensor) -> None:
        self.classifier, self.style, self.real = classifier, style, real

    @classmethod
    def of_icons(cls, classifier: Classifier, style: str, vae: AutoencoderKL) -> Judge:
        """By the style's held-out icons, through the autoencoder, so that its blur does not count against a picture."""
        icons = data.load_common(style).held_out()
        return cls(classifier, style, classifier.features(through(vae, icons.pixels() / 2 + 0.5)))

    def measures(self, pictures: torch.Tensor, prompts: list[str]) -> Measures:
        """Of pictures with one prompt, which is a subject's name, for each."""
        features = self.classifier.features(pictures)
        style = self.classifier.style_probabilities(pictures)[:, self.classifier.styles.index(self.style)]
        ranks = self.classifier.subject_ranks(pictures, [prompt.replace(" ", "-") for prompt in prompts])
        same = torch.tensor([[a == b and i != j for j, b in enumerate(prompts)] for i, a in enumerate(prompts)])
        diversity = (torch.cdist(features, features) * same).sum(1) / same.sum(1)
        return Measures(
            prompts, style.tolist(), energy_distance(features, self.real).tolist(), ranks.tolist(), diversity.tolist()
        )


def energy_distance(ours: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """What each of N samples ``ours`` (N, D) adds to the mean, 2 E|x - y| - E|x - x'| - E|y - y'|, with ``real`` (M, D).

    Székely and Rizzo, Energy statistics (2013), doi:10.1016/j.jspi.2013.03.018, as a U-statistic.
    """
    to_real, to_ours = torch.cdist(ours, real).mean(1), torch.cdist(ours, ours).sum(1) / (len(ours) - 1)
    among_real = torch.cdist(real, real).sum() / (len(real) * (len(real) - 1))
    return 2 * to_real - 2 * to_ours + to_ours.mean() - among_real


def held_out_prompts(classifier: Classifier, count: int = PROMPTS) -> list[str]:
    """Names of subjects that no LoRA has seen, spread over the alphabet."""
    held_out = [subject for subject in classifier.subjects if subject != NONE and data.is_held_out(subject)]
    return data.captions_over(held_out, count)


def generate(
    runner: Runner, adapter: Path | None, prompts: Sequence[str], strength: float = 1.0
) -> tuple[torch.Tensor, list[str]]:
    """``SEEDS`` pictures of every prompt, (N, 3, SIZE, SIZE) in [0, 1], and each one's prompt: all prompts, then all again.

    No two pictures start from the same noise, but equal prompts do so whatever the model and the adapter.
    """
    repeated = list(prompts) * SEEDS
    with runner.adapted(adapter, strength):
        parts = [
            runner.sample(repeated[i : i + len(prompts)], list(range(i, i + len(prompts))), steps=STEPS, guidance=GUIDANCE)
            for i in range(0, len(repeated), len(prompts))
        ]
    return torch.cat(parts), repeated
