"""Examples from which a target learns: answers of the source, and new noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE
from lorax.errors import LoraxError
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.methods import refine
from lorax.models import Answers, Examples, Factors, Lesson, NewNoise, Pictures, adapted, captions, examples, sampling, train
from lorax.options import Options, Running
from lorax.progress import Meter
from lorax.runner import Runner, Runners
from lorax.transfer import Context, by_models, plan
from lorax.transfer.resume import ANSWERED, Store
from tests.lab_models import LORA

PICTURES = 16
PROMPTS = captions(PICTURES)


@pytest.fixture(scope="module")
def base(models: Path) -> Runner:
    return Runner(models / f"{BASE}.safetensors")


@pytest.fixture(scope="module")
def drawn(base: Runner) -> torch.Tensor:
    return sampling.draw(base, open_adapter(LORA).deltas_of(base.base), PROMPTS, Meter())


@pytest.fixture(scope="module")
def answers(base: Runner, drawn: torch.Tensor) -> Answers:
    return Answers.of(base, open_adapter(LORA).deltas_of(base.base), drawn, PROMPTS, Meter())


def test_answers_are_what_the_source_predicts_with_the_adapter(base: Runner, drawn: torch.Tensor, answers: Answers) -> None:
    rows = torch.tensor([3, PICTURES + 3])
    batch = answers.batch.rows(rows)
    assert batch.prompts == [PROMPTS[3]] * 2
    with torch.no_grad(), adapted(base, open_adapter(LORA).deltas_of(base.base)):
        expected = base.predict(batch.latents, batch.times, base.encode(batch.prompts))
    with torch.no_grad():
        alone = base.predict(batch.latents, batch.times, base.encode(batch.prompts))
    wrong = (batch.noise.float() - expected).norm() / expected.norm()
    assert wrong < 2e-3, "but for rounding to float16"
    assert (alone - expected).norm() > 10 * wrong * expected.norm()
    noise = sampling.noised(base, drawn, PROMPTS, examples.COPIES * PICTURES, seed=0).noise
    assert (answers.batch.noise - noise).norm() > 0.05 * noise.norm(), "and not the noise itself"


def _pictures_in(batch: sampling.NoisyBatch) -> set[str]:
    return set(batch.prompts)


@pytest.mark.parametrize("kind", ["answers", "noise"])
def test_no_picture_is_both_learned_and_held_out(base: Runner, drawn: torch.Tensor, answers: Answers, kind: str) -> None:
    every: Examples = answers if kind == "answers" else NewNoise(base, drawn, PROMPTS)
    held_out = every.held_out()
    assert _pictures_in(held_out) == {PROMPTS[0], PROMPTS[examples.HELD_OUT]}
    assert len(held_out) == 2 * (examples.VALIDATED if kind == "answers" else 1)
    steps = [every.at(step, 8) for step in range(1, 25)]
    assert {len(batch) for batch in steps} == {8}
    assert set().union(*map(_pictures_in, steps)) == set(PROMPTS) - _pictures_in(held_out)
    assert torch.equal(every.at(2, 8).latents, steps[1].latents)
    assert not torch.equal(steps[0].latents, steps[1].latents)
    most = examples.COPIES * PICTURES if kind == "answers" else PICTURES
    assert len(every.at(1, 1000)) == most * 7 // 8


def test_a_lora_that_answers_as_the_source_does_has_nothing_left_to_learn(
    base: Runner, drawn: torch.Tensor, answers: Answers
) -> None:
    """But of noise it has: what is random in it cannot be predicted, and leads a training astray."""
    adapter, losses = open_adapter(LORA).deltas_of(base.base), []
    for every in (answers, NewNoise(base, drawn, PROMPTS)):
        seen: list[float] = []
        factors = Factors(refine.started(base, adapter, {layer: dW.rank for layer, dW in adapter.items()}), base.device)
        watch = lambda step, loss, layers, seen=seen: seen.append(loss)  # noqa: E731
        train(base, factors, Lesson(every, steps=1, batch=1, rate=1e-6), Meter(), watch=watch)
        losses.append(seen[0])
    assert losses[0] < 1e-5 < 1e-2 < losses[1]


def test_answers_are_kept_as_they_are(models: Path, tmp_path: Path, answers: Answers) -> None:
    bases = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, FINETUNE))
    made = plan(open_adapter(LORA), *bases, Options("refine"))
    store = Store.of(made, Cache(tmp_path, 1 << 30, 0))
    assert store.answers(made, PICTURES) is None
    store.save_answers(answers)
    found = store.answers(made, PICTURES)
    assert found is not None
    for name in ("latents", "noise", "times"):
        assert torch.equal(getattr(found.batch, name), getattr(answers.batch, name))
    assert len(found.batch.prompts) == len(found.batch.times)
    assert found.batch.prompts == answers.batch.prompts
    assert store.pictures(made, PICTURES) is None, "they are no pictures"


def test_a_source_that_overflows_is_named(models: Path, drawn: torch.Tensor) -> None:
    source = Runner(models / f"{BASE}.safetensors")
    next(source.unet.parameters()).data.fill_(torch.inf)
    with pytest.raises(LoraxError, match=r"base\.safetensors: what the model computes is NaN or infinite"):
        Answers.of(source, {}, drawn, PROMPTS, Meter())


def test_no_target_learns_from_black_pictures(models: Path, drawn: torch.Tensor) -> None:
    """What is not finite becomes black once it is rounded; the latents that a target makes of that are finite."""
    source = Runner(models / f"{BASE}.safetensors")
    for part in (source.vae.decoder, source.unet):
        next(part.parameters()).data.fill_(torch.nan)
    with pytest.raises(LoraxError, match=r"base\.safetensors: what the model computes is NaN or infinite"):
        sampling.draw(source, {}, PROMPTS, Meter())
    with pytest.raises(LoraxError, match=r"base\.safetensors: what the model computes is NaN or infinite"):
        Pictures.decoded(source, drawn, PROMPTS, Meter())


def test_many_pictures_have_few_copies_each() -> None:
    """Else what is kept of them fills the memory."""
    assert [examples.copies_of(pictures) for pictures in (8, 64, 128, 256, 4096)] == [8, 8, 4, 2, 1]
    assert [examples.validated_of(pictures) for pictures in (8, 64, 128, 256, 4096)] == [4, 4, 4, 2, 1]


@pytest.mark.usefixtures("quick_drawing", "quick_training")
@pytest.mark.parametrize(("target", "expected"), [(FINETUNE, True), ("scratch", True), ("xl", False)])
def test_answers_are_for_bases_whose_latents_mean_the_same(models: Path, tmp_path: Path, target: str, expected: bool) -> None:
    bases = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, target))
    made = dataclasses.replace(plan(open_adapter(LORA), *bases, Options("refine")), running=Running(pictures=16, steps=1))
    moved = by_models.run(made, Context(cache=Cache(tmp_path, 1 << 30, 0), models=Runners(torch.device("cpu"))))
    assert moved.layers
    kept = [file.name for file in tmp_path.iterdir() if "drawn" in file.name]
    assert [ANSWERED in name for name in kept] == [expected]
