"""What running models takes, told beforehand: against what torch counts, and against what the methods do."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.demo.bundle import BASE
from lorax.formats import open_adapter
from lorax.methods import Kinship, bridge
from lorax.models import operations, speed
from lorax.options import Options, Running
from lorax.runner import Runner, Runners
from lorax.transfer import Context, Cost, Plan, as_json, cost, plan, run, run_all, wording, work
from lorax.transfer.expected import STRANGERS
from lorax.transfer.forecast import measured
from tests.lab_models import LOCON, LORA

ASKED = Running(pictures=16, steps=1)
NOTHING = work.Work(0, 0, 0)


@pytest.fixture(scope="module")
def models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's checkpoints, and in the folder ``large`` two of them for pictures of twice the width."""
    folder = tmp_path_factory.mktemp("models")
    for path in models.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "large").mkdir()
    (folder / "large" / "tokenizer").symlink_to(folder / "tokenizer")
    for name in (BASE, "scratch"):
        (folder / "large" / f"{name}.safetensors").symlink_to(folder / f"{name}.safetensors")
        settings = (folder / f"{name}.yaml").read_text(encoding="utf-8").replace("image_size: 8", "image_size: 16")
        (folder / "large" / f"{name}.yaml").write_text(settings, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _one_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates are compared with each other, and the machine may be slower by the time of the second."""
    monkeypatch.setattr(speed, "REMEMBERED", float("inf"))


def planned(models: Path, target: str, method: str, lora: Path = LORA, running: Running = ASKED) -> Plan:
    bases = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, target))
    return plan(open_adapter(lora), *bases, Options(method, device="cpu"), running)


@pytest.mark.parametrize("name", [BASE, "pruned", "xl", "xl-pruned"])
def test_operations_are_those_that_torch_counts(models: Path, name: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    runner, told = Runner(models / f"{name}.safetensors"), operations(open_checkpoint(models / f"{name}.safetensors"))
    runner.unet.set_attn_processor(AttnProcessor())  # torch counts the products of no other
    latents, said = torch.randn(2, 4, told.size, told.size), runner.encode(["sun", "cat"])
    asked = {
        "predict": lambda: runner.predict(latents, torch.tensor([5, 9]), said),
        "encode": lambda: runner.encode(["sun", "cat"]),
        "decode": lambda: runner.decode(latents),
        "read": lambda: runner.encode_pictures(torch.rand(2, 3, 8 * told.size, 8 * told.size)),
    }
    for what, act in asked.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            act()
        assert getattr(told, what) == pytest.approx(counter.get_total_flops() / 2, rel=0.005), what
    parts = (runner.unet, *runner.text_encoders.values())
    weights = [w for part in parts for key, w in part.named_parameters() if w.dim() > 1 and not key.endswith("_embedding.weight")]
    assert told.parameters == sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(("rows", "n", "m"), [(50, 20, 30), (50, 90, 30)])
def test_a_regression_takes_about_what_torch_counts(rows: int, n: int, m: int) -> None:
    """Torch counts no decompositions and what is solved by them: with 40 rows for each lambda, and once with all."""
    X, W = torch.randn(rows, n), torch.randn(n, m)
    with FlopCounterMode(display=False) as counter:
        assert bridge.ridge(X, X @ W).any()
    solutions = [min(n, 40)] * work.RIDGES_TRIED + [min(n, rows)]
    solved = sum(k**3 / 3 + 2 * k * k * m for k in solutions)
    counted = counter.get_total_flops() - 2 * rows * n * m + solved
    assert counted / 1.5 < work.regression(rows, n, m) < 1.5 * counted


@pytest.mark.parametrize(
    ("folder", "target", "method", "of_text"),
    [
        ("", "scratch", "bridge", True),
        ("", "xl", "bridge", True),
        ("", "scratch", "refine", True),
        ("", "xl", "refine", True),
        ("large", "scratch", "refine", False),
    ],
)
@pytest.mark.usefixtures("quick_bridge")
def test_what_is_counted_is_what_is_done(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, target: str, method: str, of_text: bool
) -> None:
    """The counts of each of the two models are those of a run. They do not depend on how many layers the LoRA has."""
    lora, kinds = tmp_path / "lora.safetensors", ("attn1_to_q", *(["self_attn_q_proj"] if of_text else []))
    save_file({key: value for key, value in load_file(LORA).items() if any(kind in key for kind in kinds)}, lora)
    done: dict[str, Counter[str]] = {}
    for name, what in (("predict", "predicted"), ("encode", "encoded"), ("decode", "decoded"), ("encode_pictures", "read")):
        original = getattr(Runner, name)

        def counted(self: Runner, items: Any, *more: Any, original: Any = original, what: str = what) -> Any:
            counts = done.setdefault(self.base.path.stem, Counter())
            counts[what] += len(items)
            if what == "predicted":
                counts["trained"] += len(items) * torch.is_grad_enabled()
                counts["at_once"] = max(counts["at_once"], len(items))
            return original(self, items, *more)

        monkeypatch.setattr(Runner, name, counted)
    made = planned(models / folder, target, method, lora)
    if (target, method) == ("xl", "bridge"):  # that the layers beside change no count is seen with refine
        made = dataclasses.replace(made, of_bases={})
    run(made, Context(models=Runners(torch.device("cpu"))))
    both = operations(made.source), operations(made.target)
    stages = work.stages(method, made.running, both, of_text=of_text, kinship=made.kinship(related=False))
    for base, of_target in ((BASE, False), (target, True)):
        told = dataclasses.asdict(sum((stage.work for stage in stages if stage.of_target is of_target), NOTHING))
        assert told == {name: done[base][name] for name in told}, base


def test_more_takes_longer_and_other_methods_are_estimated_alike(models: Path) -> None:
    few = cost.estimate(planned(models, "scratch", "refine"))
    many = cost.estimate(planned(models, "scratch", "refine", running=Running(pictures=200, steps=1)))
    longer = cost.estimate(planned(models, "scratch", "refine", running=Running(pictures=16, steps=200)))
    assert 0 < few.seconds < min(many.seconds, longer.seconds)
    assert cost.estimate(planned(models, "scratch", "auto"), "refine") == few
    assert few.bytes > 4 * operations(open_checkpoint(models / "base.safetensors")).parameters
    both = cost.total([few, many])
    assert (both.seconds, both.bytes) == (few.seconds + many.seconds, max(few.bytes, many.bytes))


def test_of_large_models_a_caption_is_encoded_once_unless_text_encoders_are_trained(models: Path) -> None:
    large = dataclasses.replace(operations(open_checkpoint(models / "base.safetensors")), size=64)
    asked = dataclasses.replace(ASKED, steps=9)
    once, often = (
        work.stages("refine", asked, (large, large), of_text=one, kinship=Kinship.CROSSED)[-1].work for one in (False, True)
    )
    assert (once.encoded, once.at_once) == (ASKED.pictures, 1)
    assert often.encoded == often.predicted > once.encoded


def test_a_whole_difference_takes_more_memory_than_a_lora(models: Path, tmp_path: Path) -> None:
    """So do LoKr and others, whose layers are whole matrices once they are decoded."""
    whole = tmp_path / "whole.safetensors"
    adapter, base = open_adapter(LORA), open_checkpoint(models / f"{BASE}.safetensors")
    dense = ((name, adapter.delta(name, base)) for name in adapter.layers)
    save_file({f"{name}.diff": (dW.scale * dW.up @ dW.down).contiguous() for name, dW in dense}, whole)
    thin, thick = (planned(models, "scratch", "refine", lora, dataclasses.replace(ASKED, lora_rank=4)) for lora in (LORA, whole))
    sizes = [math.prod(base.matrix(layer)) for layer in adapter.layers_of(base).values() if layer]
    more = cost.estimate(thick).bytes - cost.estimate(thin).bytes
    assert 0.5 * cost.FLOAT * sum(sizes) < more <= cost.FLOAT * sum(sizes)


def test_a_larger_rank_takes_more_memory(models: Path) -> None:
    one, two = (dataclasses.replace(planned(models, "scratch", "refine"), options=Options("refine", max_rank=n)) for n in (1, 2))
    asked = planned(models, "scratch", "refine", running=dataclasses.replace(ASKED, lora_rank=8))
    assert cost.estimate(one).bytes < cost.estimate(two).bytes < cost.estimate(asked).bytes


@pytest.mark.parametrize("method", ["bridge", "refine"])
def test_an_analysis_runs_no_model(models: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def never(*given: Any, **more: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(Runner, "__init__", never)
    [moved] = run_all([planned(models, "scratch", method, LOCON)], survey=True)
    report = moved.report
    assert moved.layers == {}
    assert report.cost == cost.estimate(planned(models, "scratch", method, LOCON))
    assert {record.reason.text.partition(" ")[0] for record in report.records} == {"to"}
    assert all(record.target and record.kept is None and record.rank == 4 for record in report.records)
    said, takes = wording.summary(report), wording.cost_words(report.cost)
    assert "are not related" in said
    assert f"Forecast: unrelated. In pictures, {measured(STRANGERS)[method].transfers} LoRAs moved so" in said
    assert said.endswith(f"No model was run for this. A transfer takes {takes}.")
    assert as_json(report)["cost"]["words"] == takes


def test_the_command_line_tells_it_without_running_a_model(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Runner, "__init__", None)
    bases = ["--source", str(models / "base.safetensors"), "--target", str(models / "scratch.safetensors")]
    asked = ["analyze", str(LORA), *bases, "--method", "refine", "--pictures", "16", "--report", str(tmp_path / "report.json")]
    assert main(asked) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert f"A transfer takes {report['cost']['words']}." in capsys.readouterr().out
    assert main(["analyze", str(LORA), *bases]) == 3
    said = capsys.readouterr().err
    assert "Refine takes about " in said
    assert said.rstrip().endswith(" Here that is --method refine or --method bridge or --method copy.")


def test_auto_proposes_what_runs_the_models(models: Path) -> None:
    for target, methods in (("scratch", {"bridge", "refine"}), ("xl", {"refine"})):
        made = planned(models, target, "auto")
        report = run(made).report
        found = {proposal.method: proposal for proposal in report.proposals}
        assert found.keys() >= methods
        worth = [proposal.worth.mean for proposal in report.proposals]
        assert worth == sorted(worth, reverse=True)
        assert found["refine"].cost == cost.estimate(made, "refine")
        refusal = wording.refusal(report)
        assert refusal
        assert all(wording.proposal_words(proposal) in refusal for proposal in report.proposals)
        assert "--method" not in refusal, "the tab has buttons"
        assert [one["method"] for one in as_json(report)["proposals"]] == list(found)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "10 seconds"),
        (44, "40 seconds"),
        (89, "90 seconds"),
        (200, "3 minutes"),
        (1450, "25 minutes"),
        (5300, "90 minutes"),
        (8000, "2 hours"),
        (9500, "2.5 hours"),
        (50_000, "14 hours"),
    ],
)
def test_no_more_is_said_than_is_known(seconds: float, words: str) -> None:
    said = wording.cost_words(Cost(seconds, 2_140_000_000, "cpu"))
    assert said == f"about {words} on the CPU, and about 2.1 GB of its memory"


def test_a_card_that_cannot_be_measured_counts_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a loaded checkpoint takes all of its memory: what can be done is told all the same."""

    def full(*asked: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(speed, "_known", {})
    monkeypatch.setattr(speed, "_block", full)
    assert speed.speed_of(torch.device("cuda"), torch.float16, 320.0) == speed.SMALL_CARD
    assert not speed._known, "it is measured the next time"
    with pytest.raises(RuntimeError):
        speed.speed_of(torch.device("cpu"), torch.float32, 320.0)


def test_a_speed_that_was_measured_on_a_busy_machine_is_measured_again_once_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict's estimate stays the same meanwhile; what a job expects as it begins follows what it gets beside others."""
    asked, cpu = (torch.device("cpu"), torch.float32), torch.device("cpu")
    monkeypatch.setattr(speed, "_known", {})
    monkeypatch.setattr(speed, "_load", lambda: 2.0 * (os.cpu_count() or 1))
    busy = speed.speed_of(*asked, 320.0)
    assert busy > 1e8
    assert speed.speed_of(*asked, 330.0) == busy, "of nearly the same width"
    monkeypatch.setattr(speed, "_share", None)
    assert speed.share_of(cpu) < 0.75
    assert speed.share_of(torch.device("meta")) == 1, "a card is not shared"
    monkeypatch.setattr(speed, "_load", lambda: 0.0)
    quiet = speed.speed_of(*asked, 320.0)
    assert quiet != busy
    monkeypatch.setattr(speed, "_load", lambda: 2.0 * (os.cpu_count() or 1))
    assert speed.speed_of(*asked, 320.0) == quiet
    assert len(speed._known) == 1


def test_a_busy_machine_does_not_change_what_is_told_of_it_alone(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(models, "scratch", "refine", running=Running())
    monkeypatch.setattr(speed, "_share", (time.monotonic(), 1.0))
    alone, now = cost.estimate(made, alone=True), cost.estimate(made)
    assert alone == now
    monkeypatch.setattr(speed, "_share", (time.monotonic(), 0.25))
    assert cost.estimate(made, alone=True) == alone
    assert 2 < cost.estimate(made).seconds / alone.seconds < 4
