"""The sweep on a random base: what it measures, what it does not measure twice, and what it names as missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab import change, data, measure, sweep, variants, zoo
from lab.results import ALONE, NATIVE, ORDINARY, STYLE, Key, Results
from lab.variants import AUTO, BY_NAME, COPY, RANDOM, VARIANTS
from lab.zoo import ADAPTERS, HEADLINE_PAIRS, SCRATCH, XL
from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.formats import open_adapter
from lorax.methods import REFINE, refine
from lorax.models import adapted, sampling
from lorax.options import Options, Running
from lorax.runner import Runner
from lorax.transfer import plan
from tests import narrow

ADAPTER = ADAPTERS["contrast-r4"]
STRENGTHS = (0.5, 1.0)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a relative of it."""
    folder, model = tmp_path_factory.mktemp("checkpoints"), narrow.model()
    narrow.save(model, folder / f"{BASE}.safetensors")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * weight.abs().mean() * torch.randn(weight.shape)
    narrow.save(model, folder / f"{FINETUNE}.safetensors")
    return folder


@pytest.fixture
def measured(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, float]]:
    """Which adapter files were measured at which strength; the bases are random, and the icons are noise."""
    monkeypatch.setattr(zoo, "CHECKPOINTS", checkpoints)
    monkeypatch.setattr(zoo, "EXTRA_LORAS", tmp_path / "loras")
    monkeypatch.setattr(sweep, "runner_of", lambda name: Runner(checkpoints / f"{name}.safetensors"))
    monkeypatch.setattr(sweep, "STRENGTHS", STRENGTHS)
    monkeypatch.setattr(data, "load_common", lambda *sets: narrow.icons(1))
    for seed, base in enumerate((BASE, FINETUNE)):
        narrow.save_lora(ADAPTER.path(base), seed)
    calls: list[tuple[str | None, float]] = []
    of: Callable = measure.Losses.of

    def counted(self: measure.Losses, adapter: Path | None, strength: float = 1.0) -> torch.Tensor:
        calls.append((adapter.name if adapter else None, strength))
        return of(self, adapter, strength)

    monkeypatch.setattr(measure.Losses, "of", counted)
    return calls


def tasks(*variants: str) -> list[sweep.Task]:
    return [(BASE, FINETUNE, ADAPTER, replace(VARIANTS[name], strengths=STRENGTHS)) for name in variants]


def test_equal_files_are_measured_once_and_nothing_is_measured_again(measured: list, tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    sweep.run(tasks(COPY, BY_NAME, AUTO, COPY), results)
    assert sorted(measured, key=str) == sorted(
        [
            (None, 1.0),  # alone, on the style's icons and on ordinary ones
            (None, 1.0),
            *((ADAPTER.path(FINETUNE).name, strength) for strength in (*STRENGTHS, 1.0)),
            *(("moved.safetensors", strength) for strength in (*STRENGTHS, 1.0)),
        ],
        key=str,
    )
    for name in (COPY, BY_NAME, AUTO):
        for strength, on in [*((strength, STYLE) for strength in STRENGTHS), (1.0, ORDINARY)]:
            found = results.losses[Key(FINETUNE, ADAPTER.name, name, BASE, strength, on)]
            assert found.shape == (1, len(measure.SEEDS))
            assert torch.equal(found, results.losses[Key(FINETUNE, ADAPTER.name, COPY, BASE, strength, on)])
        assert results.reports[Key(FINETUNE, ADAPTER.name, name, BASE)]["coverage"] == 1.0
    losses = [results.losses[Key(FINETUNE, ADAPTER.name, name, BASE if name == COPY else "")] for name in (ALONE, NATIVE, COPY)]
    assert not any(torch.equal(one, other) for i, one in enumerate(losses) for other in losses[:i])

    count = len(measured)
    again = Results(tmp_path / "results")
    sweep.run(tasks(COPY, BY_NAME, AUTO), again)
    assert len(measured) == count
    sweep.run(tasks(RANDOM), again)  # what is new is measured, and the yardsticks are not
    assert measured[count:] == [("moved.safetensors", strength) for strength in (*STRENGTHS, 1.0)]
    assert again.minutes[FINETUNE] > results.minutes[FINETUNE] > 0


def test_missing_loras_are_named(measured: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = ADAPTERS["openmoji-r4"]
    results = Results(tmp_path / "results")
    sweep.run([(BASE, FINETUNE, absent, VARIANTS[COPY])], results)
    said = capsys.readouterr().out
    assert "2 LoRAs that lab loras has not made yet, such as openmoji-r4-base.safetensors" in said
    assert measured == []
    assert not results.losses


def test_the_sweep_is_the_headline_and_more() -> None:
    headline, full = list(sweep.headline()), list(sweep.full())
    assert set(headline) < set(full)
    assert not any(adapter.is_concept for _, _, adapter, _ in headline), "its LoRAs are not committed"
    assert {(source, target) for source, target, _, _ in headline} == set(HEADLINE_PAIRS)
    assert {adapter.rank for _, _, adapter, _ in headline} == {4}
    assert {adapter.rank for _, _, adapter, _ in full} == {4, 16, 64}
    running = list(sweep.behaviour())
    assert {variant.name for _, _, _, variant in [*full, *running]} == {
        v.name for v in VARIANTS.values() if v.question != "steps"
    }
    assert {target for _, target, _, _ in running} == {FINETUNE, PRUNED, SCRATCH, XL}
    assert not {variant.name for _, _, _, variant in full} & {variant.name for _, _, _, variant in running}
    assert all(adapter.rank == 4 and not adapter.is_concept for _, _, adapter, _ in running), "what is committed"


@pytest.mark.usefixtures("quick_drawing")
def test_refine_is_measured_on_its_way(measured: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured after the steps that are asked for; and what it moved is left for the pictures."""
    monkeypatch.setattr(variants, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(variants, "captions", lambda: ("sun", "cat"))
    refined = variants.VARIANTS[REFINE]
    monkeypatch.setattr(variants, "Running", lambda **asked: Running(**asked | {"pictures": 16, "steps": 20}))
    results = Results(tmp_path / "results")
    sweep.run([(BASE, FINETUNE, ADAPTER, refined)], results)
    at = {step: results.losses[Key(FINETUNE, ADAPTER.name, refined.at(step), BASE)] for step in (10, 20)}
    assert not torch.equal(at[10], at[20])
    assert Key(FINETUNE, ADAPTER.name, refined.at(30), BASE) not in results.losses
    assert variants.kept_file(refined, ADAPTER, BASE, FINETUNE).is_file()
    assert torch.allclose(results.losses[Key(FINETUNE, ADAPTER.name, refined.name, BASE)], at[20], atol=1e-3)


@pytest.mark.usefixtures("quick_drawing")
def test_the_change_is_matched_between_equal_models(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained from nothing, the target's change comes nearer to the source's, which there is the adapter's own."""
    base = open_checkpoint(checkpoints / f"{BASE}.safetensors")
    narrow.save_lora(lora := tmp_path / "lora.safetensors", 0)
    planned = plan(open_adapter(lora), base, base, Options("refine"))
    planned = dataclasses.replace(planned, running=Running(pictures=16, captions=("sun", "cat")))
    runner, adapter = Runner(base.path), planned.adapter.deltas_of(base)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = sampling.noised(runner, latents, ["sun"] * 4, 4, seed=1)
    wanted = change._wanted(runner, runner, adapter, seen)
    steps: list[int] = []
    start = refine.blank(runner, dict.fromkeys(adapter, 4))
    monkeypatch.setattr(change, "EVERY", 5)
    watch = lambda step, loss, layers: steps.append(step)  # noqa: E731
    found = change.match_change(planned, start, steps=10, rate=2e-2, watch=watch)
    assert steps == [5, 10]
    with torch.no_grad():
        alone = change._predicted(runner, seen)
        with adapted(runner, found):
            matched = change._predicted(runner, seen)
    assert (matched - wanted).norm() < 0.9 * (alone - wanted).norm()
