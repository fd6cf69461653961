"""The lab's training loop: seeded, and a stopped run goes on as if it had not been stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lab.loop import train


class Stopped(Exception):
    pass


def new() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def loss_of(module: nn.Module, target: float = 1.0, stop_at: int | None = None) -> Callable[[int], torch.Tensor]:
    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise Stopped
        return (module(torch.randn(8, 3)) - target).square().mean()

    return loss


def run(folder: Path, steps: int = 20, **options: object) -> tuple[torch.Tensor, nn.Module]:
    module = new()
    averaged = train("toy", folder, module, loss_of(module, **options), steps=steps, rate=0.1, save_every=5, warmup=2)  # type: ignore[arg-type]
    return torch.cat([p.detach().flatten() for p in averaged.parameters()]), module


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", stop_at=12)
    resumed, _ = run(tmp_path / "stopped")
    assert torch.equal(whole, resumed)


def test_a_finished_run_is_returned_without_training(tmp_path: Path) -> None:
    first, _ = run(tmp_path)
    again, _ = run(tmp_path, stop_at=19)  # would stop if it trained
    assert torch.equal(first, again)


@pytest.mark.parametrize("change", [{"steps": 25}, {"target": 3.0}])
def test_another_run_does_not_take_a_stored_one_for_its_own(tmp_path: Path, change: dict) -> None:
    run(tmp_path)
    changed, _ = run(tmp_path, **change)
    alone, _ = run(tmp_path / "alone", **change)
    assert torch.equal(changed, alone)


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    run(tmp_path, steps=300)
    log = [json.loads(line) for line in (tmp_path / "toy.log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [100, 200, 300]
    assert log[-1]["loss"] < log[0]["loss"] / 10
