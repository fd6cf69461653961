"""A refine that was stopped goes on where it was, and ends where it would have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from lorax.adapter import LowRank
from lorax.behaviour import refine
from lorax.behaviour.kept import TRAINED, Kept
from lorax.behaviour.training import Factors, Training
from lorax.cache import Cache
from lorax.demo.bundle import BASE, BUNDLE, unpack
from lorax.errors import Interrupted
from lorax.formats import open_adapter
from lorax.runner import Runner

LORA = BUNDLE / "loras" / "contrast-base.safetensors"
BIG = 1 << 30
PROMPTS = ["sun", "cat face", "red car", "house"] * 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    unpack(folder)
    return folder


def stopped_at(step: int) -> Callable[[str], None]:
    """A tick that stops before this step."""
    ticks = iter(range(1, 1000))

    def tick(name: str) -> None:
        if next(ticks) == step:
            raise Interrupted

    return tick


def same(a: Mapping[str, LowRank], b: Mapping[str, LowRank]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].up, b[k].up) and torch.equal(a[k].down, b[k].down) for k in a)


def test_a_training_goes_on_from_its_state() -> None:
    start = {"a": LowRank(torch.ones(3, 2), torch.ones(2, 4)), "b": LowRank(torch.ones(2, 1), torch.ones(1, 2))}

    def gradient(training: Training) -> Callable[[float], None]:
        made = torch.Generator().manual_seed(training.step)
        targets = [torch.randn(p.shape, generator=made) for p in training.parameters]
        return lambda scale: torch.autograd.backward(
            scale * sum((p - t).square().sum() for p, t in zip(training.parameters, targets, strict=True))
        )

    def steps(training: Training, count: int) -> Training:
        for _ in range(count):
            training.advance(gradient(training))
            training.look(abs(training.step - 3.5))
        return training

    whole = steps(Training(Factors(start, torch.device("cpu")).all, 1e-2), 8)
    first = steps(Training(Factors(start, torch.device("cpu")).all, 1e-2), 5)
    tensors, notes = first.state()
    again = Training(Factors(start, torch.device("cpu")).all, 1e-2)
    again.restore({name: tensor.detach().clone() for name, tensor in tensors.items()}, notes)
    assert (again.step, again.since, again.best) == (5, 2, 0.5)
    steps(again, 3)
    for found, expected in ((again.average, whole.average), (again.chosen, whole.chosen), (again.parameters, whole.parameters)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(whole.average[0], whole.chosen[0])


def test_the_state_of_other_factors_is_refused() -> None:
    made = [Training(Factors({"a": LowRank(torch.ones(3, k), torch.ones(k, 4))}, torch.device("cpu")).all, 1e-2) for k in (1, 2)]
    before = [value.clone() for value in made[1].average]
    with pytest.raises(ValueError, match="other factors"):
        made[1].restore(*made[0].state())
    with pytest.raises(KeyError):
        made[1].restore({}, made[0].state()[1])
    assert all(torch.equal(a, b) for a, b in zip(made[1].average, before, strict=True))


def test_a_stopped_training_ends_as_one_that_was_not(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two looks by a host, and later by what lets nothing be said any more, as a power cut."""
    monkeypatch.setattr(refine, "EVERY", 2)
    target = Runner(models / f"{BASE}.safetensors")
    start = refine.blank(target, dict.fromkeys(open_adapter(LORA).deltas_of(target.base), 2))
    latents = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = Kept(Cache(tmp_path, BIG, 0), "job")

    def trained(kept: Kept, tick: Callable[[str], None], seen: list[int]) -> dict[str, LowRank]:
        watch = lambda step, loss, layers: seen.append(step)  # noqa: E731
        return refine.refine(target, start, latents, PROMPTS, steps=6, rate=5e-3, tick=tick, watch=watch, kept=kept)

    whole = trained(Kept(None, ""), str, [])
    looks: list[int] = []
    with pytest.raises(Interrupted):
        trained(kept, stopped_at(4), looks)  # after 3 steps
    assert looks == [0, 2]
    entry = kept.get(TRAINED)
    assert entry is not None
    assert entry.notes["step"] == "3"
    assert same(trained(kept, str, looks), whole)
    assert looks == [0, 2, 4, 6]
    assert not list(tmp_path.glob("*.tmp"))
    assert any(not torch.equal(dW.up, start[layer].up) for layer, dW in whole.items())


def test_what_was_kept_is_removed_and_counts_for_the_limit(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 5000, 0)
    kept, other = Kept(cache, "job"), Kept(cache, "other")
    for one in (kept, other):
        one.put(TRAINED, {"a": torch.zeros(1000)}, {"step": "1"})  # 4000 bytes: the second pushes out the first
    assert kept.get(TRAINED) is None
    assert other.get(TRAINED) is not None
    other.remove()
    assert not list(tmp_path.iterdir())
