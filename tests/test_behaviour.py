"""Methods that run both models, on the lab's really trained ones."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax import probe
from lorax.adapter import LowRank
from lorax.behaviour import bridge, content, live, refine
from lorax.behaviour.captions import captions, plain, read, trigger, with_triggers
from lorax.behaviour.paired import beside
from lorax.behaviour.training import Factors, Scales
from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.demo.bundle import BASE, BUNDLE, FINETUNE, unpack
from lorax.errors import Interrupted, LoraxError
from lorax.formats import open_adapter, writer
from lorax.options import Options, Running
from lorax.runner import Runner
from lorax.transfer import Plan, plan, run
from tests import builders
from tests.conftest import SOURCE_METADATA, Files

HEADLINE = BUNDLE.parent / "headline"
STRANGER = "scratch"
LORA = BUNDLE / "loras" / "contrast-base.safetensors"
LOCON = HEADLINE / "loras" / "openmoji-r4-base.safetensors"
PROMPTS = captions(8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    unpack(folder)
    unpack(folder, HEADLINE)
    return folder


def planned(models: Path, target: str, method: str, lora: Path = LORA, **running: Any) -> Plan:
    source = open_checkpoint(models / f"{BASE}.safetensors")
    found = plan(open_adapter(lora), source, open_checkpoint(models / f"{target}.safetensors"), Options(method))
    return dataclasses.replace(found, running=Running(**{"pictures": 64, **running}))


def gained(models: Path, made: Plan, out: Path) -> float:
    """By which share the target's loss falls on pictures that the source draws with the adapter, of prompts not used before."""
    source, target = (Runner(models / f"{name}.safetensors") for name in (BASE, made.target.path.stem))
    prompts = ["sun", "cat face", "red car", "house", "tree", "green apple", "old man", "rocket"]
    pictures = probe.drawn(source, made.adapter.path, prompts)
    moved = run(made)
    writer.write(made, moved, out / "moved.safetensors", dtype="fp32", overwrite=True)
    alone, adapted = (probe.loss(target, path, pictures, prompts) for path in (None, out / "moved.safetensors"))
    return 1 - adapted / alone


def test_hooks_act_as_the_merged_adapter_does(models: Path) -> None:
    runner = Runner(models / f"{BASE}.safetensors")
    adapter = open_adapter(LOCON)
    layers = adapter.deltas_of(runner.base)
    assert any(isinstance(runner.module(layer), torch.nn.Conv2d) for layer in layers)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with runner.adapted(LOCON):
        merged = runner.predict(latents, torch.tensor(500), runner.encode(["sun", "cat"]))
    with live.adapted(runner, layers):
        hooked = runner.predict(latents, torch.tensor(500), runner.encode(["sun", "cat"]))
    alone = runner.predict(latents, torch.tensor(500), runner.encode(["sun", "cat"]))
    assert (hooked - merged).norm() < 1e-5 * merged.norm()
    assert (alone - merged).norm() > 1e-2 * merged.norm()


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_a_product_of_its_rows(kernel: int) -> None:
    torch.manual_seed(0)
    module, x = torch.nn.Conv2d(3, 5, kernel, 2, kernel // 2, bias=False), torch.randn(2, 3, 8, 8)
    expected = live.rows_in(module, x) @ module.weight.flatten(1).mT
    assert torch.allclose(live.rows_out(module, module(x)), expected, atol=1e-5)


def test_ridge_finds_a_map_and_finds_none_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    X, W, noise = (torch.randn(shape, generator=generator) for shape in ((500, 20), (20, 7), (500, 7)))
    assert (bridge.ridge(X, X @ W) - W).norm() < 2e-3 * W.norm()
    assert not bridge.ridge(X, noise).any()


def test_wide_layers_are_solved_by_the_smaller_gram_matrix() -> None:
    """What comes out satisfies the normal equations of one lambda, and is of the best rank."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 90, generator=generator)
    true = torch.randn(90, 2, generator=generator) @ torch.randn(2, 80, generator=generator)
    W, Y = bridge.ridge(X, X @ true).double(), (X @ true).double()
    unit = X.double().square().sum() / 90 * torch.eye(90)
    residual = X.double().mT @ (Y - X.double() @ W)
    assert min((residual - one * unit.double() @ W).norm() for one in bridge.RIDGES) < 1e-4 * residual.norm()
    cut = bridge._of_rank(X, W.float(), 2)
    U, S, Vh = torch.linalg.svd(X.double() @ W, full_matrices=False)
    effect = X.double() @ (cut.up @ cut.down).double().mT
    assert (effect - (U[:, :2] * S[:2]) @ Vh[:2]).norm() < 1e-4 * effect.norm()


def test_between_equal_models_the_bridge_finds_the_adapter(models: Path, out: Path) -> None:
    native = gained(models, planned(models, BASE, "copy"), out)
    assert gained(models, planned(models, BASE, "bridge"), out) > 0.7 * native > 0.1


def test_unrelated_models_are_bridged_and_refined_further(models: Path, out: Path) -> None:
    bridged = gained(models, planned(models, STRANGER, "bridge"), out)
    refined = gained(models, planned(models, STRANGER, "refine", steps=25), out)
    assert 0.02 < bridged < refined


def test_between_relatives_refining_starts_from_the_copy(models: Path) -> None:
    made = planned(models, FINETUNE, "refine", steps=1, pictures=32)
    [copied, refined] = [run(one) for one in (dataclasses.replace(made, options=Options("auto")), made)]
    assert copied.layers.keys() == refined.layers.keys()
    distance = sum(_between(refined.layers[layer], dW) ** 2 for layer, dW in copied.layers.items())
    assert 0 < distance < 0.1 * sum(dW.norm() ** 2 for dW in copied.layers.values())
    assert {record.status for record in refined.report.records} == {"transferred"}


def _between(a: LowRank, b: LowRank) -> float:
    return LowRank(torch.cat([a.scale * a.up, -b.scale * b.up], 1), torch.cat([a.down, b.down])).norm()


def test_the_best_look_is_kept(models: Path) -> None:
    """With a rate that ruins the factors, the start is the best."""
    target = Runner(models / f"{BASE}.safetensors")
    layers = open_adapter(LORA).deltas_of(target.base)
    latents = content.pictures(target, layers, PROMPTS, str)
    seen: list[float] = []
    watch = lambda step, loss, layers: seen.append(loss)  # noqa: E731
    factors = Factors(layers, target.device)
    kept = refine.refine(target, factors, latents, PROMPTS, steps=2, rate=1.0, tick=str, watch=watch)
    assert seen[0] < seen[-1]
    layer, dW = next(iter(layers.items()))
    assert torch.allclose(kept[layer].up @ kept[layer].down, dW.scale * (dW.up @ dW.down), atol=1e-5)


def test_scales_leave_the_directions_alone(models: Path) -> None:
    """A delta whose directions are twice as strong as they should be, some of them, is set right."""
    target = Runner(models / f"{BASE}.safetensors")
    layers = open_adapter(LORA).deltas_of(target.base)
    latents = content.pictures(target, layers, PROMPTS * 4, str)
    wrong = {layer: LowRank(dW.up * 2.5, dW.down, dW.scale) for layer, dW in layers.items()}
    seen: list[float] = []
    watch = lambda step, loss, layers: seen.append(loss)  # noqa: E731
    scales = Scales(wrong, target.device)
    found = refine.refine(target, scales, latents, PROMPTS * 4, steps=20, rate=0.05, tick=str, watch=watch)
    assert seen[-1] < 0.9 * seen[0]
    for layer, dW in found.items():
        ratio = dW.up / wrong[layer].up
        assert torch.equal(dW.down, wrong[layer].down)
        assert torch.allclose(ratio, ratio[:1].expand_as(ratio), atol=1e-5, equal_nan=True)


@pytest.mark.usefixtures("quick_bridge")
def test_the_largest_rank_is_kept_to(models: Path) -> None:
    made = planned(models, STRANGER, "bridge", pictures=16)
    moved = run(dataclasses.replace(made, options=Options("bridge", max_rank=2)))
    assert {dW.rank for dW in moved.layers.values()} == {2}


@pytest.mark.usefixtures("quick_bridge")
@pytest.mark.parametrize(("target", "method"), [(STRANGER, "bridge"), (STRANGER, "refine"), (FINETUNE, "refine")])
@pytest.mark.parametrize("rank", [2, 6])
def test_any_rank_is_given(models: Path, target: str, method: str, rank: int) -> None:
    moved = run(planned(models, target, method, pictures=16, steps=1, lora_rank=rank))
    assert {dW.rank for dW in moved.layers.values()} == {rank}
    assert {record.rank for record in moved.report.records if record.status == "transferred"} == {rank}


def test_a_start_of_another_rank_does_the_same(models: Path) -> None:
    """Or the most of it, where there is less room."""
    target = Runner(models / f"{BASE}.safetensors")
    layers = open_adapter(LORA).deltas_of(target.base)
    (one, first), (two, second), *_ = layers.items()
    found = refine.started(target, {one: first, two: second}, {one: 6, two: 2, "unet.out.2": 3})
    assert {layer: dW.rank for layer, dW in found.items()} == {one: 6, two: 2, "unet.out.2": 3}
    assert _between(found[one], first) < 1e-5 * first.norm()
    assert _between(found[two], second) == pytest.approx(second.norm() * second.compressed(2)[1], rel=1e-3)
    assert not found["unet.out.2"].up.any()
    assert found[one].down.norm(dim=1).min() > 0, "what is new can be trained"


@pytest.mark.parametrize("method", ["bridge", "refine"])
def test_nothing_of_the_style_is_needed(models: Path, out: Path, method: str) -> None:
    """Neither pictures of the style, nor the adapter that was trained on the target: where there are only the two models and the
    adapter, and nothing of the lab, a transfer succeeds."""
    shutil.copytree(Path(probe.__file__).parent, out / "lorax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(models / "tokenizer", out / "tokenizer")
    for base in (BASE, STRANGER):
        for suffix in ("safetensors", "yaml"):
            shutil.copy(models / f"{base}.{suffix}", out)
    shutil.copy(LORA, out)
    bases = ["--source", f"{BASE}.safetensors", "--target", f"{STRANGER}.safetensors"]
    asked = ["--method", method, "--pictures", "16", "--steps", "1", "--device", "cpu", "--output", "moved.safetensors"]
    command = [sys.executable, "-m", "lorax", "transfer", LORA.name, *bases, *asked]
    done = subprocess.run(command, cwd=out, env=os.environ | {"PYTHONPATH": str(out)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    moved = open_adapter(out / "moved.safetensors")
    assert moved.metadata["lorax_method"] == method
    assert any(dW.norm() > 0 for dW in moved.deltas_of(open_checkpoint(out / f"{STRANGER}.safetensors")).values())


@pytest.mark.usefixtures("quick_bridge")
def test_the_command_line_writes_a_lora(models: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = out / "moved.safetensors"
    bases = ["--source", str(models / "base.safetensors"), "--target", str(models / "scratch.safetensors")]
    words = out / "captions.txt"
    words.write_text("cat face\n\nred car\n", encoding="utf-8")
    asked = [str(LORA), *bases, "--method", "bridge", "--pictures", "16", "--captions", str(words), "--output", str(file)]
    assert main(["transfer", *asked]) == 0
    said = capsys.readouterr()
    assert "fitted to what the source's layer does" in said.out
    assert said.err.startswith("bridge takes about ")
    assert open_adapter(file).metadata["lorax_method"] == "bridge"
    assert main(["transfer", *asked[:-1], str(out), "--save-as", "lora-x"]) == 0
    assert "This LoRA-X file is for scratch now" in capsys.readouterr().out
    header = open_adapter(out / f"{LORA.stem}-scratch-lorax.safetensors").header
    assert header is not None
    assert (header.source, header.method) == ("scratch.safetensors", "auto")


def test_stopping_leaves_nothing(models: Path) -> None:
    reached: list[str] = []

    def stop(done: int, total: int, name: str) -> None:
        assert done <= total
        reached.append(name)
        if name.startswith("unet."):
            raise Interrupted

    with pytest.raises(Interrupted):
        run(planned(models, STRANGER, "bridge", pictures=16), stop)
    assert [name for name in dict.fromkeys(reached) if not name.startswith(("unet.", "te."))] == [
        "comparing the checkpoints",
        "drawing pictures",
        "decoding pictures",
        "encoding pictures",
    ]


@pytest.mark.usefixtures("quick_bridge")
def test_models_of_other_widths_and_latents_are_bridged(models: Path, out: Path) -> None:
    """From SD 1.x to SDXL, whose latents have another scale and another size here."""
    for name in (BASE, "xl"):
        (out / f"{name}.safetensors").symlink_to(models / f"{name}.safetensors")
        text = (models / f"{name}.yaml").read_text(encoding="utf-8")
        if name == "xl":
            text = text.replace("scale_factor: ", "scale_factor: 2").replace("image_size: 8", "image_size: 16")
        (out / f"{name}.yaml").write_text(text)
    (out / "tokenizer").symlink_to(models / "tokenizer")
    moved = run(planned(out, "xl", "bridge", pictures=16))
    target = open_checkpoint(models / "xl.safetensors")
    assert all(dW.shape == target.matrix(layer) for layer, dW in moved.layers.items())
    own = {record.target for record in moved.report.records if record.status == "transferred"}
    assert 100 < len(own) < len(moved.layers) == len(own) + moved.report.beside
    assert f"{moved.report.beside} layers that the LoRA leaves alone are changed as well" in moved.report.summary()
    assert sum(dW.norm() > 0 for dW in moved.layers.values()) > len(moved.layers) / 3  # so few pictures tell of few layers


def test_places_are_the_same_at_any_resolution() -> None:
    where = bridge.Places.drawn(3, 50)
    fine = torch.arange(3 * 8 * 8).view(3, 8, 8)
    coarse = fine[:, ::2, ::2]  # a cell's first
    of_fine, of_coarse = (where.of(grid.reshape(-1, 1), 3).squeeze(1) for grid in (fine, coarse))
    assert (of_fine // 64 == of_coarse // 64).all()  # of the same picture
    apart = (of_fine - of_coarse).int() % 64
    assert set(apart.tolist()) <= {0, 1, 8, 9}  # and of the same cell
    tokens = where.of(torch.arange(3 * 77).view(-1, 1), 3).squeeze(1)
    assert torch.equal((tokens // 77).long(), where.item)


@pytest.mark.parametrize("module", [torch.nn.Conv2d(4, 5, 3, 2, 1), torch.nn.Linear(8, 5)])
def test_what_a_layer_sees_is_taken_at_the_places(module: torch.nn.Module) -> None:
    where, x = bridge.Places.drawn(3, 50), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x if isinstance(module, torch.nn.Conv2d) else x.flatten(2).mT.reshape(3, 32, 8)
    assert torch.equal(where.seen(module, x), where.of(live.rows_in(module, x), 3))


def test_layers_beside_the_adapters_are_those_of_both_models_where_some_of_its_own_have_no_counterpart(models: Path) -> None:
    assert beside(planned(models, STRANGER, "bridge")) == {}
    made = planned(models, "xl", "bridge")
    found = beside(made)
    assert {target.partition(".")[0] for target in found} == {"unet"}, "the text encoder's all have one"
    assert not set(found.values()) & {pair.source for pair in made.pairs.values() if pair}
    assert len(found) > len(beside(planned(models, "xl", "bridge", LOCON))) > 0
    nowhere = {name: dataclasses.replace(pair, target=None) if pair else None for name, pair in made.pairs.items()}
    assert beside(dataclasses.replace(made, pairs=nowhere)) == {}


def test_plain_captions_are_many_and_differ() -> None:
    assert len(set(plain())) == len(plain()) > 3000
    assert len(set(captions(384))) == 384


def test_bad_captions_name_the_file(tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(LoraxError, match=r"empty\.txt: holds no caption"):
        read(empty)
    with pytest.raises(LoraxError, match=r"none\.txt: cannot be read"):
        read(tmp_path / "none.txt")


def test_the_trigger_word_leads_every_second_caption(files: Files, tmp_path: Path) -> None:
    adapter = open_adapter(builders.save_lora(tmp_path / "style.safetensors", files.deltas, metadata=SOURCE_METADATA))
    assert trigger(adapter) == "origami", "as the tab shows it"
    assert with_triggers(["a", "b"], trigger(adapter)) == ["a", "origami, b"]
    tags = {key: value for key, value in SOURCE_METADATA.items() if key != "modelspec.trigger_phrase"}
    assert trigger(open_adapter(builders.save_lora(tmp_path / "tags.safetensors", files.deltas, metadata=tags))) == "paper"
    assert with_triggers(["a", "b"], None) == ["a", "b"]


@pytest.mark.usefixtures("quick_bridge")
def test_what_is_drawn_is_what_was_asked_for(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = Runner.encode
    monkeypatch.setattr(Runner, "encode", lambda self, prompts: asked.extend(prompts) or encode(self, prompts))
    made = planned(models, STRANGER, "bridge", pictures=16, captions=("cat", "car"), trigger="ink")
    run(made)
    assert set(asked) == {"", "cat", "car", "ink, cat", "ink, car"}
