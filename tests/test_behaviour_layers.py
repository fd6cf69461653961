"""Which layers methods that run the models give a delta, and of which rank."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.demo.bundle import BASE, FINETUNE
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.methods import refine
from lorax.options import DENSE_RANK, Options
from lorax.runner import Runner
from lorax.transfer import Moved, Plan, as_json, run, wording
from lorax.transfer.assignment import assignments
from lorax.transfer.by_models import concluded
from tests.lab_models import LOCON, LORA, STRANGER, on_diffusers, planned
from tests.measures import between


def beside(made: Plan) -> dict[str, str]:
    """Target layer -> source layer, for the layers that the adapter leaves alone."""
    touched = {pair.source for pair in made.pairs.values() if pair}
    return {target: one.source for target, one in assignments(made).items() if one.source not in touched}


def part(lora: Path, out: Path, name: str, *, keep: bool) -> Path:
    """A LoRA with only those layers whose names hold ``name``, or without them."""
    path = out / "part.safetensors"
    save_file({key: value for key, value in load_file(lora).items() if (name in key) is keep}, path)
    return path


def test_layers_beside_the_adapters_are_those_of_both_models_where_some_of_its_own_have_no_counterpart(models: Path) -> None:
    assert beside(planned(models, STRANGER, "bridge")) == {}
    made = planned(models, "xl", "bridge")
    found = beside(made)
    assert {target.partition(".")[0] for target in found} == {"unet"}, "the text encoder's all have one"
    assert len(found) > len(beside(planned(models, "xl", "bridge", LOCON))) > 0


def test_what_is_of_no_use_beside_is_left_out(models: Path) -> None:
    made = planned(models, "xl", "bridge")
    [one, two, *_] = beside(made)
    base = open_checkpoint(models / "xl.safetensors")
    layers = {
        layer: LowRank(torch.ones(base.matrix(layer)[0], 1), torch.ones(1, base.matrix(layer)[1])) for layer in assignments(made)
    }
    layers[one] = LowRank(layers[one].up, torch.zeros_like(layers[one].down))
    layers[two] = LowRank(torch.full_like(layers[two].up, torch.nan), layers[two].down)
    auto = run(dataclasses.replace(made, options=Options("auto")))
    moved = concluded(made, auto, layers, {})
    assert one not in moved.layers
    assert two in moved.layers, "what is not finite is told of and not dropped"
    assert moved.report.extra_layers == len(moved.layers)


@pytest.mark.usefixtures("quick_drawing", "quick_training")
def test_layers_beside_are_moved_and_told_of(models: Path) -> None:
    made = planned(models, "xl", "refine", pictures=16, steps=1)
    assert_moved_and_told_of(made, run(made, on_diffusers()))


def assert_moved_and_told_of(made: Plan, moved: Moved) -> None:
    """The layers beside."""
    own = {record.target for record in moved.report.records if record.status == "transferred"}
    others = moved.layers.keys() - own
    assert 0 < len(others) == moved.report.extra_layers
    assert others <= beside(made).keys()
    assert all(moved.layers[layer].norm() > 0 for layer in others)
    assert f"Changed as well, beside the LoRA's own layers: {len(others)}" in wording.summary(moved.report)
    assert as_json(moved.report)["beside"] == len(others)


def test_a_lora_without_any_counterpart_is_told_of_before_a_model_runs(
    models: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Runner, "__init__", None)
    lora = part(LORA, out, "down_blocks_0_attentions", keep=True)
    bases = [f"--{role}={models / name}.safetensors" for role, name in (("source", BASE), ("target", "xl"))]
    for method in ("bridge", "refine"):
        assert main(["transfer", str(lora), *bases, f"--method={method}", f"--output={out / 'moved'}"]) == 2
        assert "no layer could be moved" in capsys.readouterr().err
        assert main(["analyze", str(lora), *bases, f"--method={method}"]) == 0
        assert "A transfer takes" not in capsys.readouterr().out


def test_the_largest_rank_holds_whatever_is_asked_for(models: Path) -> None:
    made = planned(models, "xl", "refine", lora_rank=8)
    made = dataclasses.replace(made, options=Options("refine", max_rank=2))
    assert {one.rank for one in assignments(made).values()} == {2}


def test_a_layer_of_high_rank_is_no_measure_for_those_beside(models: Path, out: Path) -> None:
    """A whole difference with its bias, which other methods write whole."""
    tensors, base = load_file(LORA), open_checkpoint(models / f"{BASE}.safetensors")
    made = planned(models, "xl", "refine")
    layer = next(pair.source for pair in made.pairs.values() if pair and pair.target and pair.source.endswith("to_out.0"))
    name = base.names.kohya(layer)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
    tensors |= {f"{name}.diff": torch.ones(base.layers[layer]), f"{name}.diff_b": torch.ones(base.layers[layer][0])}
    save_file(tensors, out / "mixed.safetensors")
    found = assignments(planned(models, "xl", "refine", out / "mixed.safetensors"))
    [whole] = [one.rank for one in found.values() if one.source == layer]
    assert whole == min(DENSE_RANK, *base.matrix(layer))
    assert {one.rank for one in found.values() if one.source != layer} <= {3, 4}


@pytest.mark.usefixtures("quick_bridge")
def test_models_of_other_widths_and_latents_are_bridged_with_the_layers_beside(models: Path, out: Path) -> None:
    """SDXL's latents here have another scale and another size than SD 1.x's."""
    for name in (BASE, "xl"):
        (out / f"{name}.safetensors").symlink_to(models / f"{name}.safetensors")
        text = (models / f"{name}.yaml").read_text(encoding="utf-8")
        if name == "xl":
            text = text.replace("scale_factor: ", "scale_factor: 2").replace("image_size: 8", "image_size: 16")
        (out / f"{name}.yaml").write_text(text)
    (out / "tokenizer").symlink_to(models / "tokenizer")
    made = planned(out, "xl", "bridge", pictures=16)
    moved = run(made, on_diffusers())
    assert_moved_and_told_of(made, moved)
    target = open_checkpoint(models / "xl.safetensors")
    assert all(dW.shape == target.matrix(layer) for layer, dW in moved.layers.items())
    assert len(moved.layers) > 100
    assert sum(dW.norm() > 0 for dW in moved.layers.values()) > len(moved.layers) / 3  # so few pictures tell of few layers


@pytest.mark.usefixtures("quick_bridge")
def test_the_largest_rank_is_kept_to(models: Path, out: Path) -> None:
    made = planned(models, STRANGER, "bridge", part(LORA, out, "attn1_to_q", keep=True), pictures=16)
    moved = run(dataclasses.replace(made, options=Options("bridge", max_rank=2)), on_diffusers())
    assert {dW.rank for dW in moved.layers.values()} == {2}


@pytest.mark.usefixtures("quick_bridge")
@pytest.mark.parametrize(
    ("name", "method", "rank"), [(STRANGER, "bridge", 6), (FINETUNE, "refine", 2), (FINETUNE, "refine", 6), ("xl", "refine", 6)]
)
def test_any_rank_is_given(models: Path, out: Path, name: str, method: str, rank: int) -> None:
    """Bridge is given a smaller one above."""
    lora = part(LORA, out, "attn1_to_q", keep=True)
    moved = run(planned(models, name, method, lora, pictures=16, steps=1, lora_rank=rank), on_diffusers())
    target = open_checkpoint(models / f"{name}.safetensors")
    assert all(dW.rank == min(rank, *target.matrix(layer)) for layer, dW in moved.layers.items())
    assert {record.rank for record in moved.report.records if record.status == "transferred"} == {rank}


def test_a_start_of_another_rank_does_the_same(models: Path) -> None:
    """A start of a smaller rank does the most of it that fits."""
    target = Runner(models / f"{BASE}.safetensors")
    layers = open_adapter(LORA).deltas_of(target.base)
    (one, first), (two, second), *_ = layers.items()
    found = refine.started(target, {one: first, two: second}, {one: 6, two: 2, "unet.out.2": 3})
    assert {layer: dW.rank for layer, dW in found.items()} == {one: 6, two: 2, "unet.out.2": 3}
    assert between(found[one], first) < 1e-5 * first.norm()
    assert between(found[two], second) == pytest.approx(second.norm() * second.compressed(2)[1], rel=1e-3)
    assert not found["unet.out.2"].up.any()
    assert found[one].down.norm(dim=1).min() > 0, "what is new can be trained"
