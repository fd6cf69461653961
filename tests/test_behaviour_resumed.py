"""A refine that was stopped goes on where it was, and ends where it would have ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE
from lorax.errors import Interrupted
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.methods import Kinship, refine
from lorax.models import Factors, Lesson, NewNoise, train, training
from lorax.models.optimizer import Optimizer, Scales
from lorax.options import Options, Running
from lorax.progress import Meter, Progress, silent
from lorax.runner import Runner, Runners
from lorax.transfer import Context, plan, run_all
from lorax.transfer.resume import Store
from tests import narrow
from tests.lab_models import LOCON, LORA

BIG = 1 << 30
PROMPTS = ["sun", "cat face", "red car", "house"] * 4


def stopped_at(step: int) -> Progress:
    """Progress that stops before this step."""

    def progress(done: int, total: int, name: str) -> None:
        if name.startswith(f"training, {step - 1} of "):
            raise Interrupted

    return progress


def same(a: Mapping[str, LowRank], b: Mapping[str, LowRank]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].up, b[k].up) and torch.equal(a[k].down, b[k].down) for k in a)


def test_a_training_goes_on_from_its_state() -> None:
    start = {"a": LowRank(torch.ones(3, 2), torch.ones(2, 4)), "b": LowRank(torch.ones(2, 1), torch.ones(1, 2))}

    def gradient(optimizer: Optimizer) -> Callable[[float], None]:
        made = torch.Generator().manual_seed(optimizer.step)
        targets = [torch.randn(p.shape, generator=made) for p in optimizer.parameters]
        return lambda scale: torch.autograd.backward(
            scale * sum((p - t).square().sum() for p, t in zip(optimizer.parameters, targets, strict=True))
        )

    def steps(optimizer: Optimizer, count: int) -> Optimizer:
        for _ in range(count):
            optimizer.advance(gradient(optimizer))
            optimizer.validated(abs(optimizer.step - 3.5))
        return optimizer

    whole = steps(Optimizer(Factors(start, torch.device("cpu")).parameters, 1e-2), 8)
    first = steps(Optimizer(Factors(start, torch.device("cpu")).parameters, 1e-2), 5)
    tensors, notes = first.state()
    again = Optimizer(Factors(start, torch.device("cpu")).parameters, 1e-2)
    again.restore({name: tensor.detach().clone() for name, tensor in tensors.items()}, notes)
    assert (again.step, again.stale, again.best_loss) == (5, 2, 0.5)
    steps(again, 3)
    for found, expected in ((again.average, whole.average), (again.best, whole.best), (again.parameters, whole.parameters)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(whole.average[0], whole.best[0])


def test_the_state_of_other_factors_is_refused() -> None:
    made = [
        Optimizer(Factors({"a": LowRank(torch.ones(3, k), torch.ones(k, 4))}, torch.device("cpu")).parameters, 1e-2)
        for k in (1, 2)
    ]
    before = [value.clone() for value in made[1].average]
    with pytest.raises(ValueError, match="other factors"):
        made[1].restore(*made[0].state())
    with pytest.raises(KeyError):
        made[1].restore({}, made[0].state()[1])
    assert all(torch.equal(a, b) for a, b in zip(made[1].average, before, strict=True))


class WithinAStep(Meter):
    """A meter that stops the fourth step, while its gradients are computed."""

    done = 0

    def at(self, done: int, total: int, phase: str) -> None:
        self.done = done
        super().at(done, total, phase)

    def tick(self) -> None:
        if self.done == 3:
            raise Interrupted


@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize("stopping", [Meter(stopped_at(4)), WithinAStep(silent)], ids=["between steps", "within a step"])
def test_a_stopped_training_ends_as_one_that_was_not(
    models: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, stopping: Meter
) -> None:
    """Stopped between two looks by a host, and later by what lets nothing be said any more, as a power cut."""
    monkeypatch.setattr(training, "VALIDATE_EVERY", 2)
    target = Runner(models / f"{BASE}.safetensors")
    adapter = open_adapter(narrow.save_lora(tmp_path_factory.mktemp("lora") / "lora.safetensors"))
    start = refine.blank(target, dict.fromkeys(adapter.deltas_of(target.base), 2))
    latents = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    store = Store(Cache(tmp_path, BIG, 0), "job")

    def trained(store: Store, meter: Meter, seen: list[int]) -> dict[str, LowRank]:
        watch = lambda step, loss, layers: seen.append(step)  # noqa: E731
        lesson = Lesson(NewNoise(target, latents, PROMPTS), steps=5, batch=16, rate=5e-3)
        return train(target, Factors(start, target.device), lesson, meter, store, watch)

    whole = trained(Store(None, ""), Meter(silent), [])
    looks: list[int] = []
    with pytest.raises(Interrupted):
        trained(store, stopping, looks)  # after 3 steps
    assert looks == [0, 2]
    resumed = Optimizer(Factors(start, target.device).parameters, 5e-3)
    state = store.load()
    assert state is not None
    resumed.restore(*state)
    assert resumed.step == 3
    assert same(trained(store, Meter(silent), looks), whole)
    assert looks == [0, 2, 4, 5]
    assert not list(tmp_path.glob("*.tmp"))
    assert any(not torch.equal(dW.up, start[layer].up) for layer, dW in whole.items())


def test_a_state_is_saved_now_and_then(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size it is gigabytes."""

    class Counting:
        saved = 0

        def load(self) -> None:
            return None

        def save(self, state: training.State) -> None:
            self.saved += 1

    target, found = Runner(models / f"{BASE}.safetensors"), []
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    start = refine.blank(target, dict.fromkeys(open_adapter(LORA).deltas_of(target.base), 2))
    monkeypatch.setattr(training, "VALIDATE_EVERY", 1)
    for seconds in (60.0, 0.0):
        monkeypatch.setattr(training, "SAVE_EVERY", seconds)
        count = Counting()
        lesson = Lesson(NewNoise(target, latents, PROMPTS[:8]), steps=3, batch=4, rate=5e-3)
        train(target, Factors(start, target.device), lesson, Meter(silent), count)
        found.append(count.saved)
    assert found == [1, 4], "and at the end"


class Opening:
    """Runners that note which bases are opened."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def opened(self, base: Checkpoint) -> AbstractContextManager[Runner]:
        self.names.append(base.path.stem)
        return Runners(torch.device("cpu")).opened(base)


@pytest.mark.usefixtures("quick_drawing", "quick_training")
def test_a_stopped_refine_is_asked_for_again(
    models: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is not run again, not for another target either."""
    lora = open_adapter(narrow.save_lora(tmp_path_factory.mktemp("lora") / "lora.safetensors"))
    monkeypatch.setattr(training, "VALIDATE_EVERY", 2)
    source, target = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, FINETUNE))
    made = dataclasses.replace(plan(lora, source, target, Options("refine")), running=Running(pictures=16, steps=4))
    other = dataclasses.replace(made, running=Running(pictures=16, steps=3))
    whole = run_all([made], Context(models=Opening()))[0].layers
    cache, opening = Cache(tmp_path, BIG, 0), Opening()

    def stop(done: int, total: int, name: str) -> None:
        assert done <= total
        if name.startswith("training, 3 of 4"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_all([made], Context(stop, cache, opening))
    assert opening.names == [BASE, FINETUNE]
    assert len(list(tmp_path.iterdir())) == 2
    assert Store.of(other, cache).job != Store.of(made, cache).job == Store.of(dataclasses.replace(made), cache).job
    ticks: list[str] = []

    def told(done: int, total: int, name: str) -> None:
        if name.startswith("training"):
            ticks.append(name.rpartition(", about")[0] or name)

    [moved] = run_all([made], Context(told, cache, opening))
    assert opening.names == [BASE, FINETUNE, FINETUNE]
    assert same(moved.layers, whole)
    assert set(ticks) == {"training, 3 of 4"}
    [again] = run_all([made], Context(cache=cache, models=opening))  # as when what came after it failed
    assert same(again.layers, whole)
    run_all(
        [dataclasses.replace(made, target=source, running=Running(pictures=16, steps=1))], Context(cache=cache, models=opening)
    )
    assert opening.names[3:] == [FINETUNE, BASE], "no other target has the source draw again"


@pytest.mark.usefixtures("quick_drawing", "quick_training")
def test_a_training_that_was_kept_is_not_taken_for_that_of_another_default(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, FINETUNE))
    made = dataclasses.replace(plan(open_adapter(LORA), source, target, Options("refine")), running=Running(pictures=16))
    found, cache, usual = {}, Cache(tmp_path, BIG, 0), refine.EFFORTS[Kinship.RELATIVES]
    for steps in (6, 2):
        monkeypatch.setitem(refine.EFFORTS, Kinship.RELATIVES, dataclasses.replace(usual, steps=steps))
        [found[steps]] = run_all([made], Context(cache=cache, models=Runners(torch.device("cpu"))))
    explicit = dataclasses.replace(made, running=Running(pictures=16, steps=2))
    [expected] = run_all([explicit], Context(models=Runners(torch.device("cpu"))))
    assert same(found[2].layers, expected.layers)
    assert not same(found[2].layers, found[6].layers)


def test_other_files_are_other_jobs(models: Path, tmp_path: Path) -> None:
    """What they hold decides, and not where they are."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        for file in (f"{BASE}.safetensors", f"{BASE}.yaml"):
            (tmp_path / name / file).write_bytes((models / file).read_bytes())
    with (tmp_path / "three" / f"{BASE}.yaml").open("a", encoding="utf-8") as file:
        file.write("# another scale\n")

    def made(folder: str, *captions: str, lora: Path = LORA) -> str:
        base = open_checkpoint(tmp_path / folder / f"{BASE}.safetensors")
        running = Running(captions=captions)
        asked = dataclasses.replace(plan(open_adapter(lora), base, base, Options("refine")), running=running)
        return Store.of(asked, Cache(tmp_path / "cache", BIG, 0)).job

    assert made("one") == made("two")
    different = [made("one"), made("three"), made("one", "sun"), made("one", "cat"), made("one", lora=LOCON)]
    assert len(set(different)) == len(different)


def test_what_is_kept_counts_for_the_limit(tmp_path: Path) -> None:
    factors = Factors({"a": LowRank(torch.ones(50, 2), torch.ones(2, 50))}, torch.device("cpu"))
    state, cache = Optimizer(factors.parameters, 1e-2).state(), Cache(tmp_path, 3600, 0)
    store, other = Store(cache, "job"), Store(cache, "other")
    for one in (store, other):
        one.save(state)  # 2400 bytes: the second pushes out the first
    assert store.load() is None
    assert other.load() is not None


def test_scales_are_applied_where_their_layers_are() -> None:
    """What is chosen of a training is kept in the CPU's memory, while the layers are on the device."""
    layers = {"a": LowRank(torch.ones(3, 2), torch.ones(2, 4), 0.5)}
    (found,) = Scales(layers, torch.device("meta")).layers([torch.full((2,), 2.0)]).values()
    assert (found.up.device.type, found.down.device.type, found.scale) == ("meta", "meta", 0.5)
