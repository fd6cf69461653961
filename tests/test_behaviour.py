"""Methods that run both models, on the lab's really trained ones."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lorax
from lab import probe, writing
from lorax.arguments import to_captions
from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.demo.bundle import BASE, FINETUNE
from lorax.errors import Interrupted
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.models import Factors, Lesson, NewNoise, Scales, captions, hooks, sampling, train, with_triggers
from lorax.models.captions import plain
from lorax.options import Options
from lorax.progress import Meter
from lorax.runner import Runner
from lorax.transfer import Plan, run
from lorax.transfer.teaching import trigger
from tests import builders, narrow
from tests.lab_models import LOCON, LORA, STRANGER, on_diffusers, planned
from tests.measures import between
from tests.samples import SOURCE_METADATA, Files

PROMPTS = captions(8)
NEW = ["sun", "cat face", "red car", "house", "tree", "green apple", "old man", "rocket"]
QUICKLY = """
import sys
from lorax.cli import main
from lorax.methods import bridge
from lorax.models import sampling
bridge.ROWS, bridge.SCALING_STEPS, sampling.STEPS = 256, 3, 3
sys.exit(main(sys.argv[1:]))
"""
LONGEST = 2.5  # seconds of the processor between two chances to stop; a batch of pictures took 5 and more
Heard = list[tuple[float, str]]


@pytest.fixture
def fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bridge compare layers at a quarter of the points, and train their strengths in a quarter of the steps."""
    monkeypatch.setattr("lorax.methods.bridge.ROWS", 1024)
    monkeypatch.setattr("lorax.methods.bridge.SCALING_STEPS", 10)


@pytest.fixture(scope="module")
def pictures(models: Path) -> torch.Tensor:
    """What the source draws with the adapter, of new prompts."""
    return probe.drawn(Runner(models / f"{BASE}.safetensors"), LORA, NEW)


def gained(pictures: torch.Tensor, made: Plan, out: Path, heard: Heard | None = None) -> float:
    """Return the share by which the target's loss falls on the source's pictures."""
    heard, drawn = [] if heard is None else heard, Cache(out / "drawn", 1 << 30, 0)
    moved = run(made, on_diffusers(lambda done, total, text: heard.append((time.thread_time(), text)), drawn))
    writing.write(made, moved, out / "moved.safetensors", dtype="fp32", overwrite=True)
    target = Runner(made.target.path)
    alone, adapted = (probe.loss(target, path, pictures, NEW) for path in (None, out / "moved.safetensors"))
    return 1 - adapted / alone


def test_hooks_act_as_the_merged_adapter_does(models: Path) -> None:
    runner = Runner(models / f"{BASE}.safetensors")
    adapter = open_adapter(LOCON)
    layers = adapter.deltas_of(runner.base)
    assert any(isinstance(runner.module(layer), torch.nn.Conv2d) for layer in layers)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with runner.adapted(LOCON):
        merged = runner.predict(latents, torch.tensor(500), runner.encode(["sun", "cat"]))
    with hooks.adapted(runner, layers):
        hooked = runner.predict(latents, torch.tensor(500), runner.encode(["sun", "cat"]))
    alone = runner.predict(latents, torch.tensor(500), runner.encode(["sun", "cat"]))
    assert (hooked - merged).norm() < 1e-5 * merged.norm()
    assert (alone - merged).norm() > 1e-2 * merged.norm()


@pytest.mark.usefixtures("fewer_points")
def test_between_equal_models_the_bridge_finds_the_adapter(models: Path, pictures: torch.Tensor, out: Path) -> None:
    native = gained(pictures, planned(models, BASE, "copy"), out)
    assert gained(pictures, planned(models, BASE, "bridge", pictures=16), out) > 0.7 * native > 0.1


@pytest.mark.usefixtures("fewer_points")
def test_unrelated_models_are_bridged_and_refined_further_and_a_stop_never_waits_long(
    models: Path, pictures: torch.Tensor, out: Path
) -> None:
    """It waits in no phase, by the seconds of this thread, which other work on the machine does not lengthen."""
    bridging: Heard = []
    refining: Heard = []
    bridged = gained(pictures, planned(models, STRANGER, "bridge"), out, bridging)
    refined = gained(pictures, planned(models, STRANGER, "refine", steps=15), out, refining)
    assert 0.02 < bridged < refined
    gaps = [(later - sooner, text) for heard in (bridging, refining) for (sooner, text), (later, _) in itertools.pairwise(heard)]
    assert {"drawing pictures", "training"} <= {text.partition(",")[0] for _, text in gaps}
    assert max(gaps)[0] < LONGEST, max(gaps)


@pytest.mark.usefixtures("quick_drawing", "quick_training")
def test_between_relatives_refining_starts_from_the_copy(models: Path) -> None:
    made = planned(models, FINETUNE, "refine", steps=1, pictures=16)
    [copied, refined] = [run(one, on_diffusers()) for one in (dataclasses.replace(made, options=Options("auto")), made)]
    assert copied.layers.keys() == refined.layers.keys()
    distance = sum(between(refined.layers[layer], dW) ** 2 for layer, dW in copied.layers.items())
    assert 0 < distance < 0.1 * sum(dW.norm() ** 2 for dW in copied.layers.values())
    assert {record.status for record in refined.report.records} == {"transferred"}


def test_the_best_look_is_kept(models: Path) -> None:
    """The start is the best if the rate ruins the factors."""
    target = Runner(models / f"{BASE}.safetensors")
    layers = open_adapter(LORA).deltas_of(target.base)
    latents = sampling.draw(target, layers, PROMPTS, Meter())
    seen: list[float] = []
    watch = lambda step, loss, layers: seen.append(loss)  # noqa: E731
    factors = Factors(layers, target.device)
    lesson = Lesson(NewNoise(target, latents, PROMPTS), steps=2, batch=16, rate=1.0)
    kept = train(target, factors, lesson, Meter(), watch=watch)
    assert seen[0] < seen[-1]
    layer, dW = next(iter(layers.items()))
    assert torch.allclose(kept[layer].up @ kept[layer].down, dW.scale * (dW.up @ dW.down), atol=1e-5)


def test_scales_leave_the_directions_alone(models: Path) -> None:
    """A delta whose directions are twice as strong as they should be, some of them, is set right."""
    target = Runner(models / f"{BASE}.safetensors")
    layers = open_adapter(LORA).deltas_of(target.base)
    latents = sampling.draw(target, layers, PROMPTS * 2, Meter())
    wrong = {layer: LowRank(dW.up * 2.5, dW.down, dW.scale) for layer, dW in layers.items()}
    seen: list[float] = []
    watch = lambda step, loss, layers: seen.append(loss)  # noqa: E731
    scales = Scales(wrong, target.device)
    found = train(
        target, scales, Lesson(NewNoise(target, latents, PROMPTS * 2), steps=15, batch=16, rate=0.05), Meter(), watch=watch
    )
    assert seen[-1] < 0.9 * seen[0]
    for layer, dW in found.items():
        ratio = dW.up / wrong[layer].up.where(wrong[layer].up != 0, torch.nan)
        ratio = ratio.where(~ratio.isnan(), ratio.nanmean(0))
        assert torch.equal(dW.down, wrong[layer].down)
        assert torch.allclose(ratio, ratio[:1].expand_as(ratio), atol=1e-5, equal_nan=True)


def test_nothing_of_the_style_is_needed(models: Path, out: Path) -> None:
    """A transfer needs the two models and the adapter: no pictures of the style, no adapter of the target, nothing of the lab."""
    shutil.copytree(Path(lorax.__file__).parent, out / "lorax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(models / "tokenizer", out / "tokenizer")
    for base in (BASE, STRANGER):
        for suffix in ("safetensors", "yaml"):
            shutil.copy(models / f"{base}.{suffix}", out)
    lora = narrow.save_lora(out / "lora.safetensors")
    bases = ["--source", f"{BASE}.safetensors", "--target", f"{STRANGER}.safetensors"]
    asked = ["--method", "bridge", "--pictures", "16", "--device", "cpu", "--output", "moved.safetensors"]
    command = [sys.executable, "-c", QUICKLY, "transfer", lora.name, *bases, *asked]
    done = subprocess.run(command, cwd=out, env=os.environ | {"PYTHONPATH": str(out)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    moved = open_adapter(out / "moved.safetensors")
    assert moved.metadata["lorax_method"] == "bridge"
    assert any(dW.norm() > 0 for dW in moved.deltas_of(open_checkpoint(out / f"{STRANGER}.safetensors")).values())


@pytest.mark.usefixtures("quick_bridge")
def test_the_command_line_draws_what_was_asked_for_and_writes_a_lora(
    models: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = Runner.encode
    monkeypatch.setattr(Runner, "encode", lambda self, prompts: encoded.extend(prompts) or encode(self, prompts))
    file = out / "moved.safetensors"
    bases = ["--source", str(models / "base.safetensors"), "--target", str(models / "scratch.safetensors")]
    words = out / "captions.txt"
    words.write_text("cat face\n\nred car\n", encoding="utf-8")
    lora = narrow.save_lora(out / "lora.safetensors")
    drawn = ["--pictures", "16", "--captions", str(words), "--trigger", "ink"]
    asked = [str(lora), *bases, "--method", "bridge", *drawn, "--output", str(file)]
    assert main(["transfer", *asked]) == 0
    assert set(encoded) == {"", "cat face", "red car", "ink, cat face", "ink, red car"}
    said = capsys.readouterr()
    assert "fitted to what the source's layer does" in said.out
    assert said.err.startswith("bridge takes about ")
    assert open_adapter(file).metadata["lorax_method"] == "bridge"
    assert main(["transfer", *asked[:-1], str(out), "--save-as", "lora-x"]) == 0
    assert "This LoRA-X file is for scratch now" in capsys.readouterr().out
    header = open_adapter(out / "lora-scratch-lorax.safetensors").header
    assert header is not None
    assert (header.source, header.method) == ("scratch.safetensors", "auto")


@pytest.mark.usefixtures("quick_drawing")
def test_stopping_leaves_nothing(models: Path) -> None:
    reached: list[str] = []

    def stop(done: int, total: int, name: str) -> None:
        assert done <= total
        reached.append(name)
        if name.startswith("watching"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run(planned(models, STRANGER, "bridge", pictures=16), on_diffusers(stop))
    assert list(dict.fromkeys(name.partition(",")[0] for name in reached)) == [
        "comparing the checkpoints",
        "opening base",
        "drawing pictures",
        "decoding pictures",
        "encoding pictures",
        "watching the source",
    ]


def test_plain_captions_are_many_and_differ() -> None:
    assert len(set(plain())) == len(plain()) > 3000
    assert len(set(captions(384))) == 384


def test_bad_captions_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty := tmp_path / "empty.txt").write_text("\n \n")
    for file, said in ((empty, "empty.txt: holds no caption"), (tmp_path / "none.txt", "none.txt: no such file")):
        assert main(["analyze", "lora", "--source", "one", "--target", "other", "--captions", str(file)]) == 2
        assert said in capsys.readouterr().err


def test_captions_of_an_editor_that_marks_its_files(tmp_path: Path) -> None:
    (marked := tmp_path / "marked.txt").write_text("a red cat\na dog\n", encoding="utf-8-sig")
    assert to_captions(str(marked)) == ("a red cat", "a dog")


def test_the_trigger_word_leads_every_second_caption(files: Files, tmp_path: Path) -> None:
    adapter = open_adapter(builders.save_lora(tmp_path / "style.safetensors", files.deltas, metadata=SOURCE_METADATA))
    assert trigger(adapter) == "origami", "as the tab shows it"
    assert with_triggers(["a", "b"], trigger(adapter)) == ["a", "origami, b"]
    tags = {key: value for key, value in SOURCE_METADATA.items() if key != "modelspec.trigger_phrase"}
    assert trigger(open_adapter(builders.save_lora(tmp_path / "tags.safetensors", files.deltas, metadata=tags))) == "paper"
    for damaged in ("[" * 100_000, '{"folder": {"paper": Infinity}}'):
        other = builders.save_lora(tmp_path / "odd.safetensors", files.deltas, metadata=tags | {"ss_tag_frequency": damaged})
        assert trigger(open_adapter(other)) is None
    assert with_triggers(["a", "b"], None) == ["a", "b"]
