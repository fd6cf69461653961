"""What is measured of large layers, and what is not: tiny ones are made to count as large."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.methods.weight_pair import LITTLE
from lorax.options import Options
from lorax.subspace import spectral
from lorax.transfer import Moved, Plan, by_layer, plan, run, run_all
from tests import builders
from tests.samples import Files, along

LAYERS = [
    param.diffusers.removesuffix(".weight")
    for param in builders.TINY.unet()
    if param.is_layer and "attentions" in param.diffusers
]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return builders.save_lora(tmp_path / "wide.safetensors", builders.deltas(LAYERS))


def planned(files: Files, lora: Path, options: Options, target: Path | None = None) -> Plan:
    return plan(open_adapter(lora), open_checkpoint(files.base), open_checkpoint(target or files.target), options)


def dense(moved: Moved) -> dict[str, torch.Tensor]:
    return {layer: delta.scale * (delta.up.double() @ delta.down.double()) for layer, delta in moved.layers.items()}


def measured(moved: Moved) -> list[str]:
    return [record.name for record in moved.report.records if record.similarity is not None]


@pytest.mark.parametrize("method", ["copy", "auto"])
def test_relatives_are_told_by_a_few_layers(files: Files, lora: Path, large: list[int], method: str) -> None:
    moved = run(planned(files, lora, Options(method)))
    assert len(measured(moved)) == by_layer.SAMPLE < len(moved.report.records)
    assert moved.report.declined is None
    assert len(moved.layers) == len(LAYERS)
    assert len(large) <= (2 if method == "copy" else 4) * by_layer.SAMPLE  # auto: at most a second time in float64 for each
    assert all(record.overlap is not None for record in moved.report.records)


def surveyed(files: Files, lora: Path, options: Options, target: Path | None = None) -> tuple[Moved, Moved]:
    """What a transfer does, and what analysing it shows."""
    found, shown = (run_all([planned(files, lora, options, target)], survey=survey)[0] for survey in (False, True))
    assert len(measured(found)) == by_layer.SAMPLE
    assert measured(shown) == [record.name for record in shown.report.records] == [record.name for record in found.report.records]
    return found, shown


@pytest.mark.parametrize("method", ["copy", "auto", "lorax"])
@pytest.mark.parametrize("kind", ["target", "stranger"])
def test_a_survey_measures_every_layer_and_moves_the_same(
    files: Files, lora: Path, large: list[int], method: str, kind: str
) -> None:
    found, shown = surveyed(files, lora, Options(method, threshold=0.0), getattr(files, kind))
    for one, other in zip(found.report.records, shown.report.records, strict=True):
        assert one.similarity in (None, other.similarity)
        assert replace(other, similarity=one.similarity) == one
    assert replace(shown.report, records=found.report.records) == found.report
    assert found.layers.keys() == shown.layers.keys()
    for layer, delta in found.layers.items():
        also = shown.layers[layer]
        assert torch.equal(delta.up, also.up)
        assert torch.equal(delta.down, also.down)
        assert delta.scale == also.scale


def test_a_survey_does_not_judge_the_bases(files: Files, lora: Path, tmp_path: Path, large: list[int]) -> None:
    """The sample judges the bases. They differ in it here, while in most layers they do not."""
    before, strange = planned(files, lora, Options("auto")), open_checkpoint(files.stranger)
    state = dict(files.target_state)
    for name in by_layer.sample(before):
        layer = before.pairs[name].target
        key = builders.UNET + layer.removeprefix("unet.") + ".weight"
        state[key] = strange.stored(layer).clone()
    found, shown = surveyed(files, lora, Options("auto"), builders.save(state, tmp_path / "odd.safetensors"))
    similarities = [record.similarity for record in shown.report.records]
    assert statistics.median(similarities) > 0.8
    assert found.report.declined == shown.report.declined is not None


def test_strangers_too(files: Files, lora: Path, large: list[int]) -> None:
    moved = run(planned(files, lora, Options("auto"), files.stranger))
    assert moved.report.declined is not None
    assert len(measured(moved)) == by_layer.SAMPLE


def test_an_adapter_that_lies_inside_is_projected_everywhere(files: Files, tmp_path: Path, large: list[int]) -> None:
    inside = builders.deltas(LAYERS, rank=1)
    base = open_checkpoint(files.target)
    for delta in inside:
        U, _, Vh = torch.linalg.svd(base.weight(delta.layer).double(), full_matrices=False)
        delta.up[:] = U[:, :1].reshape(delta.up.shape).float()
        delta.down[:] = Vh[:1].reshape(delta.down.shape).float()
    lora = builders.save_lora(tmp_path / "inside.safetensors", inside)
    moved = run(planned(files, lora, Options("auto")))
    assert all(record.reason.text.startswith("projected") for record in moved.report.records)
    assert len(measured(moved)) == by_layer.SAMPLE


def test_a_gate_measures_every_layer(files: Files, lora: Path, large: list[int]) -> None:
    assert len(measured(run(planned(files, lora, Options("lorax", threshold=0.5))))) == len(LAYERS)
    assert len(measured(run(planned(files, lora, Options("lorax", threshold=0.0))))) == by_layer.SAMPLE


@pytest.mark.parametrize("method", ["auto", "lorax", "prolora", "prolora-cross"])
def test_large_layers_move_as_small_ones_do(files: Files, lora: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    expected = dense(run(planned(files, lora, Options(method, threshold=0.0))))
    for module in (by_layer, spectral):
        monkeypatch.setattr(module, "SMALL", 1)
    found = dense(run(planned(files, lora, Options(method, threshold=0.0))))
    assert found.keys() == expected.keys()
    for layer, delta in expected.items():
        assert ((found[layer] - delta).norm() / delta.norm()).item() < 1e-3


@pytest.mark.parametrize("c", [0.5, 0.01])
def test_large_layers_have_of_the_adapter_what_small_ones_have(
    files: Files, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, c: float
) -> None:
    """Exactly, where that is much: every seventh row tells that it is."""
    target = along(files, tmp_path / "along.safetensors", c, builders.deltas(LAYERS))
    exact = run(planned(files, lora, Options("auto"), target)).report
    monkeypatch.setattr(by_layer, "SMALL", 1)
    found = run(planned(files, lora, Options("auto"), target)).report
    assert found.strength == pytest.approx(exact.strength, rel=1e-6)
    assert found.overlap == pytest.approx(exact.overlap, rel=1e-6 if c > LITTLE else 0, abs=0.02 if c < LITTLE else 0)


@pytest.mark.parametrize("method", ["copy", "auto"])
def test_a_copied_layer_that_is_damaged_is_named(files: Files, lora: Path, tmp_path: Path, large: list[int], method: str) -> None:
    copied = next(record for record in run(planned(files, lora, Options("copy"))).report.records if record.similarity is None)
    path = next(delta.ldm for delta in builders.deltas(LAYERS) if delta.layer == copied.target)
    state = {key: value.clone() for key, value in files.target_state.items()}
    state[f"{builders.UNET}{path}.weight"].fill_(float("nan"))
    damaged = builders.save(state, tmp_path / "damaged.safetensors")
    with pytest.raises(LoraxError, match=f"damaged.safetensors: .*{path}.* holds NaN"):
        run(planned(files, lora, Options(method), damaged))
