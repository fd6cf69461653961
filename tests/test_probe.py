"""The probe: how one change follows another, and changes that an adapter makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab import probe
from lab.probe import agreement
from lorax.models import trajectory
from lorax.runner import Runner
from tests import narrow

PROMPTS = ["guitar", "koala"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(narrow.save(narrow.model(), tmp_path_factory.mktemp("narrow") / "base.safetensors"))


@pytest.fixture
def d() -> torch.Tensor:
    return torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("c", [1.0, 0.5, 2.0, -1.0])
def test_a_change_and_its_multiple(d: torch.Tensor, c: float) -> None:
    found = agreement(d, c * d)
    assert found.r2 == pytest.approx(1 - (1 - c) ** 2, abs=1e-6)
    assert found.cosine == pytest.approx(1 if c > 0 else -1)


def test_what_is_added_across_the_change_counts_against_it(d: torch.Tensor) -> None:
    across = torch.randn(d.shape, generator=torch.Generator().manual_seed(1))
    across -= (across * d).sum() / (d * d).sum() * d
    across *= d.norm() / across.norm()
    alone, both = agreement(d, across), agreement(d, d + across)
    assert (alone.r2, alone.cosine) == pytest.approx((-1, 0), abs=1e-5)
    assert (both.r2, both.cosine) == pytest.approx((0, 0.5**0.5), abs=1e-5)


def test_no_change(d: torch.Tensor) -> None:
    nothing = torch.zeros_like(d)
    assert agreement(nothing, nothing).r2 == 1
    assert agreement(d, nothing) == probe.Agreement(0, 0)
    assert agreement(nothing, d) == probe.Agreement(0, 0)


def test_a_model_follows_itself(runner: Runner, tmp_path: Path) -> None:
    lora, other = narrow.save_lora(tmp_path / "lora.safetensors"), narrow.save_lora(tmp_path / "other.safetensors", seed=1)
    inputs = probe.on_the_way(runner, PROMPTS, steps=3)
    assert inputs.latents.shape == (3, 2, 4, 8, 8)
    assert inputs.times.tolist() == sorted(inputs.times.tolist(), reverse=True)
    change = probe.change(runner, lora, inputs)
    assert change.shape == inputs.latents.shape
    assert agreement(change, probe.change(runner, lora, inputs)).r2 == pytest.approx(1, abs=1e-6)
    assert agreement(change, probe.change(runner, other, inputs)).r2 < 0.5


def test_the_loss_on_what_the_model_draws(runner: Runner, tmp_path: Path) -> None:
    lora = narrow.save_lora(tmp_path / "lora.safetensors")
    drawn = probe.drawn(runner, lora, PROMPTS, steps=2)
    *_, (_, alone) = trajectory(runner, PROMPTS, [0, 1], 2, 3.0)
    assert drawn.shape == alone.shape
    assert not torch.allclose(drawn, alone, atol=1e-3)
    losses = [probe.loss(runner, adapter, drawn, PROMPTS) for adapter in (None, lora, None)]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]
    assert probe.loss(runner, lora, drawn, PROMPTS, strength=0) == losses[0]
