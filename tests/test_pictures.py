"""The judge of pictures: on features whose distance is known, and on what the bundled models draw."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from lab import data
from lab.classifier import NONE, Classifier, accuracy, labelled
from lab.paths import CACHE, CLASSIFIER
from lab.pictures import Judge, energy_distance, generate, held_out_prompts
from lab.zoo import STARK
from lorax.demo.bundle import BASE
from lorax.demo.grid import draw
from lorax.runner import Runner
from tests.lab_models import LORA


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load()


@pytest.fixture(scope="module")
def drawn(classifier: Classifier, models: Path) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """What the base draws of four subjects that the style's LoRA has not seen, alone and with the LoRA."""
    runner = Runner(models / f"{BASE}.safetensors")
    adapters = {"alone": None, "styled": LORA}
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("lab.pictures.STEPS", 12)
        return {label: generate(runner, path, held_out_prompts(classifier, 4)) for label, path in adapters.items()}


def samples(seed: int, shift: float = 0.0, count: int = 200) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_distance_is_nothing_between_samples_of_one_distribution_and_grows_with_a_shift() -> None:
    same, near, far = (energy_distance(samples(0), samples(1, shift)).mean() for shift in (0.0, 0.5, 1.0))
    assert abs(same) < 0.03
    assert 0.1 < near < far


def test_the_distance_has_no_bias_towards_few_samples() -> None:
    few = torch.stack([energy_distance(samples(seed, count=8), samples(seed + 1000)).mean() for seed in range(200)])
    assert abs(few.mean()) < 3 * few.std() / len(few) ** 0.5


def test_pictures_without_the_style_add_more_to_the_distance_than_those_with_it() -> None:
    with_it, without = energy_distance(torch.cat([samples(0), samples(2, 1.0)]), samples(1)).chunk(2)
    assert without.mean() > with_it.mean() + 0.1


def test_the_committed_classifier_is_small_and_knows_the_styles(classifier: Classifier) -> None:
    assert CLASSIFIER.stat().st_size < 500_000
    assert classifier.styles == list(data.SETS)
    assert classifier.subjects[-1] == NONE


@pytest.mark.skipif(not (CACHE / "icons").is_dir(), reason="the icons are not rendered; that needs npm")
def test_the_classifier_tells_icons_that_it_has_not_seen(classifier: Classifier) -> None:
    icons, subjects = labelled()
    assert subjects == classifier.subjects
    unseen = accuracy(classifier, icons.where(icons.unseen))
    assert unseen.style > 0.7
    assert unseen.subject_in_five > 0.2


def test_a_lora_brings_its_style(classifier: Classifier, drawn: dict[str, tuple[torch.Tensor, list[str]]]) -> None:
    judge = Judge(classifier, STARK, classifier.features(drawn["styled"][0]))
    alone, styled = (judge.measures(*drawn[label]) for label in ("alone", "styled"))
    assert mean(alone.style) < 0.1
    assert mean(styled.style) > 0.3
    assert mean(styled.distance) < mean(alone.distance) - 0.1
    assert mean(alone.kept) > 0.5


def test_equal_pictures_of_a_prompt_have_no_diversity(
    classifier: Classifier, drawn: dict[str, tuple[torch.Tensor, list[str]]]
) -> None:
    pictures, prompts = drawn["alone"]
    judge = Judge(classifier, STARK, classifier.features(pictures))
    once = len(set(prompts))
    copied = judge.measures(pictures[:once].repeat(2, 1, 1, 1), prompts)
    assert max(copied.diversity) < 1e-3
    assert min(judge.measures(pictures, prompts).diversity) > 0.05


def test_prompts_are_subjects_that_no_lora_has_seen(classifier: Classifier) -> None:
    prompts = held_out_prompts(classifier)
    assert len(set(prompts)) == len(prompts) == 12
    assert all(data.is_held_out(prompt.replace(" ", "-")) for prompt in prompts)


def test_a_grid_is_small_since_it_is_committed(drawn: dict[str, tuple[torch.Tensor, list[str]]], tmp_path: Path) -> None:
    pictures, prompts = drawn["alone"]
    draw([(BASE, "alone", pictures)], prompts, path := tmp_path / "grid.webp")
    with Image.open(path) as grid:
        assert grid.format == "WEBP"
        grid.save(tmp_path / "grid.png")
    assert path.stat().st_size < (tmp_path / "grid.png").stat().st_size / 4
