"""How much refine draws and trains, by how the bases are related; what is told of it, and what is kept of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.methods import BRIDGE, METHODS, REFINE, Job, Kinship, bridge, refine
from lorax.models import operations, sampling
from lorax.options import Options, Running
from lorax.runner import Runners
from lorax.transfer import Context, Plan, by_models, cost, plan, work
from tests.lab_models import committed

PAIRS = [
    (BASE, "finetune", Kinship.RELATIVES),
    (BASE, "pruned", Kinship.RELATIVES),
    (BASE, "scratch", Kinship.STRANGERS),
    ("xl", "xl-pruned", Kinship.RELATIVES),
    (BASE, "xl", Kinship.CROSSED),
]


def planned(models: Path, source: str, target: str) -> Plan:
    bases = (open_checkpoint(models / f"{name}.safetensors") for name in (source, target))
    return plan(open_adapter(committed(f"contrast-r4-{source}")), *bases, Options(REFINE, device="cpu"))


def jobs_of(made: Plan, monkeypatch: pytest.MonkeyPatch, cache: Cache | None = None, start: str | None = None) -> list[Job]:
    """Have it run, with methods that leave everything as it is; return what they were asked."""
    asked: list[Job] = []

    def fit(job: Job) -> dict:
        asked.append(job)
        return {}

    monkeypatch.setattr(by_models, "model_method", lambda name: dataclasses.replace(METHODS[name], fit=fit))
    by_models.run(made, Context(cache=cache, models=Runners(torch.device("cpu"))), start=start)
    return asked


@pytest.mark.parametrize(("source", "target", "expected"), PAIRS)
def test_what_is_drawn_and_told_follows_from_how_the_bases_are_related(
    models: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str, expected: Kinship
) -> None:
    """By the lab's own models, of which the slimmed-down ones are as small-sd and SSD-1B are."""
    made, effort = planned(models, source, target), refine.EFFORTS[expected]
    [job] = jobs_of(made, monkeypatch)
    assert (job.pictures, job.steps, job.kinship) == (effort.pictures, effort.steps, expected)
    both = operations(made.source), operations(made.target)
    told = work.stages(REFINE, made.running, both, of_text=True, kinship=expected)
    drawn = 2 * sampling.STEPS * effort.pictures
    assert (told[0].work.predicted, told[-1].work.trained) == (drawn, effort.steps * refine.BATCH)


def test_relatives_take_as_much_work_as_strangers(models: Path) -> None:
    """So an estimate need not look how the bases are related."""
    one, other = (refine.EFFORTS[kinship] for kinship in (Kinship.RELATIVES, Kinship.STRANGERS))
    assert (one.pictures, one.steps) == (other.pictures, other.steps)
    made = planned(models, BASE, FINETUNE)
    assert cost.estimate(made, alone=True) == cost.estimate(planned(models, BASE, "scratch"), alone=True)


@pytest.mark.parametrize(
    ("said", "other"), [("scale_factor: 0.18215", "scale_factor: 0.13"), ("image_size: 8", "image_size: 16")]
)
def test_of_other_latents_the_pictures_are_learned(models: Path, tmp_path: Path, said: str, other: str) -> None:
    """They mean something else, or are of another size, as a file beside the checkpoint tells."""
    for suffix in ("safetensors", "yaml"):
        shutil.copy(models / f"{FINETUNE}.{suffix}", tmp_path)
    assert planned(models, BASE, FINETUNE).has_same_latents
    config = tmp_path / f"{FINETUNE}.yaml"
    assert said in config.read_text(encoding="utf-8")
    config.write_text(config.read_text(encoding="utf-8").replace(said, other), encoding="utf-8")
    bases = open_checkpoint(models / f"{BASE}.safetensors"), open_checkpoint(tmp_path / f"{FINETUNE}.safetensors")
    made = plan(open_adapter(committed(f"contrast-r4-{BASE}")), *bases, Options(REFINE, device="cpu"))
    assert made.within_family
    assert not made.has_same_latents
    assert {made.kinship(related=related) for related in (True, False)} == {Kinship.CROSSED}


def test_the_users_numbers_count_between_all(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, target, _ in PAIRS:
        made = dataclasses.replace(planned(models, source, target), running=Running(pictures=20, steps=3))
        [job] = jobs_of(made, monkeypatch)
        assert (job.pictures, job.steps) == (20, 3)


def test_a_bridge_from_which_refine_starts_is_as_good_as_any(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = jobs_of(planned(models, BASE, "scratch"), monkeypatch, start=BRIDGE)
    assert (first.pictures, second.pictures) == (bridge.PICTURES, refine.EFFORTS[Kinship.STRANGERS].pictures)


def test_a_training_on_other_pictures_by_default_is_another(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A later version that draws more must not take what an earlier one has kept for its own."""
    made, cache, usual = planned(models, BASE, "scratch"), Cache(tmp_path, 1 << 30, 0), refine.EFFORTS[Kinship.STRANGERS]
    keys = []
    for pictures in (usual.pictures, usual.pictures, 2 * usual.pictures):
        monkeypatch.setitem(refine.EFFORTS, Kinship.STRANGERS, dataclasses.replace(usual, pictures=pictures))
        [job] = jobs_of(made, monkeypatch, cache)
        keys.append(job.saved.job)  # type: ignore[union-attr]
    assert keys[0] == keys[1] != keys[2]
