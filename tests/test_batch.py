"""Several adapters with different sources to several targets: each ends by itself, whatever becomes of the others."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lorax.cli import main
from lorax.errors import Interrupted, LoraxError
from lorax.hosts.standalone import Standalone
from lorax.options import Batching, Options, Saving
from lorax.progress import READING
from lorax.workflow import Batch, End, InFolder, Item, Outcome, batch, passes, transfer
from tests import builders, library
from tests.library import silent
from tests.samples import Files
from tests.test_kills import forked


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    """A user's folder: LoRAs of two bases, of which two cannot be moved, and two targets."""
    models = library.make(tmp_path, files)
    for base in (files.stranger, files.pruned):
        shutil.copy(base, models)
    loras = models / "Lora"
    builders.save_lora(loras / "far.safetensors", files.deltas, metadata={"ss_sd_model_name": "stranger.safetensors"})
    tensors = load_file(loras / "one.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, loras / "diverged.safetensors", {"ss_sd_model_name": "base.safetensors"})
    shutil.copy(loras / "one.safetensors", loras / "three.safetensors")
    return models


def asked(folder: Path, *adapters: str, targets: tuple[str, ...] = ("target", "pruned"), skip: bool = False) -> Batch:
    host = Standalone(folder)
    found, bases = host.adapters(), host.bases()
    items = [Item(found[f"Lora/{name}"]) for name in adapters]
    goals = [bases[name] for name in targets]
    return Batch(items, goals, list(bases.values()), Options(), batching=Batching(skip))


def into(folder: Path, saving: Saving | None = None) -> InFolder:
    return InFolder(folder / "Lora", "moved", saving or Saving())


def ends(outcomes: list[Outcome]) -> dict[str, str]:
    return {f"{one.adapter.path.stem} {one.target.name}": one.end.value for one in outcomes}


def with_cards(*names: str) -> set[str]:
    return {f"{name}{suffix}" for name in names for suffix in (".safetensors", ".json")}


def files_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "Lora" / "moved").rglob("*")}


def test_each_ends_by_itself_and_as_it_is_alone(folder: Path) -> None:
    """One pass has a LoRA in its middle whose damage shows only while it is moved."""
    wanted = asked(folder, "one", "far", "broken", "diverged", "styles/two", "three")
    (folder / "Lora" / "moved").mkdir()
    (folder / "Lora" / "moved" / "three-pruned.safetensors").write_bytes(b"mine")
    outcomes = batch(wanted, into(folder), silent)
    assert ends(outcomes) == {
        **{f"one {target}": "written" for target in ("target", "pruned")},
        **{f"far {target}": "declined" for target in ("target", "pruned")},
        **{f"{name} {target}": "failed" for name in ("broken", "diverged", "two") for target in ("target", "pruned")},
        "three target": "written",
        "three pruned": "failed",
    }
    said = {f"{one.adapter.path.stem} {one.target.name}": one.reason for one in outcomes}
    assert "not a whole safetensors file" in said["broken target"]
    assert "diverged.safetensors" in said["diverged target"]
    assert "names none of the 4 checkpoints" in said["two target"]
    assert "exists already" in said["three pruned"]
    assert "are not related" in said["far pruned"]
    assert {one.source.name for one in outcomes if one.source} == {"base", "stranger"}
    assert files_in(folder) == {*with_cards("one-target", "one-pruned", "three-target"), "three-pruned.safetensors"}
    for target in ("target", "pruned"):
        request = replace(library.request(folder, "one", options=Options()), target=Standalone(folder).bases()[target])
        (alone,) = transfer(request, InFolder(folder / "Lora", "alone"), silent)
        found, expected = (load_file(path) for path in (folder / f"Lora/moved/one-{target}.safetensors", alone.written or ""))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_one_pass_for_one_pair_of_bases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, many = list[int](), passes.run_all
    monkeypatch.setattr(passes, "run_all", lambda plans, *more, **named: calls.append(len(plans)) or many(plans, *more, **named))
    texts: list[str] = []
    outcomes = batch(asked(folder, "one", "far", "three"), into(folder), lambda done, total, text: texts.append(text))
    assert sorted(calls) == [1, 1, 2, 2]
    hashed = {(text.split(":")[0], text.split("hashing ")[1].split(",")[0]) for text in texts if "hashing" in text}
    assert sorted(base for _, base in hashed) == ["base", "pruned", "target"], "each is hashed in one of the passes alone"
    assert {one.end for one in outcomes} == {End.WRITTEN, End.DECLINED}


@pytest.mark.parametrize("stop", [Interrupted, KeyboardInterrupt])
def test_what_was_finished_before_a_stop_stays_and_a_second_run_goes_on(folder: Path, stop: type[BaseException]) -> None:
    def progress(done: int, total: int, text: str) -> None:
        if "writing three-target" in text:
            raise stop

    wanted = asked(folder, "one", "three", skip=True)
    first = batch(wanted, into(folder), progress)
    assert ends(first) == {
        "one target": "written",
        "one pruned": "stopped",
        "three target": "stopped",
        "three pruned": "stopped",
    }
    assert files_in(folder) == with_cards("one-target")
    kept = (folder / "Lora" / "moved" / "one-target.safetensors").stat()
    second = batch(wanted, into(folder), silent)
    assert [one.end for one in second] == [End.EXISTED, End.WRITTEN, End.WRITTEN, End.WRITTEN]
    assert (folder / "Lora" / "moved" / "one-target.safetensors").stat() == kept
    texts: list[str] = []
    third = batch(wanted, into(folder), lambda done, total, text: texts.append(text))
    assert {one.end for one in third} == {End.EXISTED}
    assert set(texts) == {READING}, "no work where nothing is missing"
    assert all(one.path and one.path.is_file() for one in third)


def test_a_stop_loses_no_more_than_the_portion_that_is_moved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("lorax.workflow.batch"), "PORTION", 1)

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("2 of 2") and "layer" in text:
            raise Interrupted

    outcomes = batch(asked(folder, "one", "three", targets=("target",)), into(folder), progress)
    assert ends(outcomes) == {"one target": "written", "three target": "stopped"}
    assert files_in(folder) == with_cards("one-target")


@pytest.mark.parametrize("when", [READING, f"1 of 2: {READING}"])
def test_a_stop_is_heard_while_the_files_are_read(folder: Path, when: str) -> None:
    """Of thousands that takes a while, also in each pass."""

    def progress(done: int, total: int, text: str) -> None:
        if text == when:
            raise Interrupted

    assert set(ends(batch(asked(folder, "one", "three"), into(folder), progress)).values()) == {"stopped"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for the kill")
def test_a_kill_leaves_whole_files_and_a_second_run_goes_on(folder: Path) -> None:
    card = folder / "Lora" / "one.json"
    card.write_text(json.dumps({"activation text": "fold"}))

    def progress(done: int, total: int, text: str) -> None:
        if "writing three-target" in text:
            os.kill(os.getpid(), signal.SIGKILL)

    wanted = asked(folder, "one", "three", targets=("target",), skip=True)
    assert forked(lambda: batch(wanted, into(folder), progress)) == -signal.SIGKILL
    visible = {name for name in files_in(folder) if not name.startswith(".") and not name.endswith(".tmp")}
    assert visible == with_cards("one-target")
    assert [one.end for one in batch(wanted, into(folder), silent)] == [End.EXISTED, End.WRITTEN]
    assert files_in(folder) == with_cards("one-target", "three-target")
    assert load_file(folder / "Lora" / "moved" / "one-target.safetensors")


def test_names(folder: Path) -> None:
    """Two LoRAs that get one name: the first has it, in every run."""
    saving = Saving(name="{method} {lora} of {source} for {target}.safetensors")
    (written, other) = batch(asked(folder, "one"), into(folder, saving), silent)
    assert written.path == folder / "Lora" / "moved" / "auto one of base for target.safetensors"
    assert builders.header(written.path)["ss_output_name"] == "auto one of base for target"
    assert other.end is End.WRITTEN
    for end in (End.WRITTEN, End.EXISTED):
        same = batch(
            asked(folder, "one", "three", targets=("target",), skip=True), into(folder, Saving(name="x-{target}")), silent
        )
        assert [one.end for one in same] == [end, End.FAILED]
        assert "the name that two of the adapters get" in same[1].reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{base}", r"\{base\} is not known. Use \{lora\}, \{target\}, \{source\}, \{method\}"),
        ("{lora:>9}", "is not known"),
        ("{lora!r}", "is not known"),
        ("{lora}}", "is not known"),
        ("{", "is not known"),
        ("../{lora}", "without folders"),
        ("a\\{lora}", "without folders"),
        ("{lora}: {target}", "without folders"),
        ("{lora}\n", "without control characters"),
        ("{lora}\ud800", "without control characters"),
        ("CON", "Windows keeps it for a device"),
        ("nul.x", "Windows keeps it for a device"),
        (" con ", "Windows keeps it for a device"),
        ("com¹", "Windows keeps it for a device"),
        ("..", "dots and spaces alone"),
    ],
)
def test_a_name_that_not_every_system_can_have_is_refused(name: str, words: str) -> None:
    with pytest.raises(LoraxError, match=words):
        Saving(name=name)


def test_a_name_that_is_too_long_is_told_of_its_lora_alone(folder: Path) -> None:
    (folder / "Lora" / "one.safetensors").rename(folder / "Lora" / f"{'n' * 238}.safetensors")
    outcomes = batch(asked(folder, "n" * 238, "three", targets=("target",)), into(folder), silent)
    assert [one.end for one in outcomes] == [End.FAILED, End.WRITTEN]
    assert "at most 239 are allowed" in outcomes[0].reason


@pytest.mark.parametrize("method", ["copy", "lorax"])
def test_a_strength_multiplies_every_delta_exactly(folder: Path, method: str) -> None:
    """The written layers, multiplied out as a WebUI does it, are half of those at full strength, to the last bit."""
    card = folder / "Lora" / "one.json"
    card.write_text(json.dumps({"description": "paper"}))
    asked = library.request(folder, "one", options=Options(method))
    (full,) = transfer(asked, InFolder(folder / "Lora", "full"), silent)
    (half,) = transfer(asked, InFolder(folder / "Lora", "half", Saving(strength=0.5)), silent)
    assert full.written
    assert half.written
    expected, found = builders.dense(full.written), builders.dense(half.written)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], 0.5 * expected[name]) for name in expected)
    assert all(expected[name].any() for name in expected)
    assert builders.header(half.written)["lorax_strength"] == "0.5"
    assert "lorax_strength" not in builders.header(full.written)
    assert half.report.saved_strength == 0.5
    assert "at strength 0.5" in json.loads(half.written.with_suffix(".json").read_text())["description"]


def test_a_strength_that_cannot_be_had_is_refused() -> None:
    for wrong in (0.0, -1.0, 2.1, float("nan")):
        with pytest.raises(LoraxError, match="expected a number from"):
            Saving(strength=wrong)
    with pytest.raises(LoraxError, match="a LoRA-X file keeps its full strength"):
        Saving("lora-x", strength=0.5)


def test_on_the_command_line(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loras = [str(folder / "Lora" / f"{name}.safetensors") for name in ("one", "broken", "far")]
    targets = ["--target", str(folder / "target.safetensors"), "--target", str(folder / "pruned.safetensors")]
    command = ["transfer", *loras, "--models", str(folder), *targets, "--output", str(out), "--name", "{target} {lora}"]
    assert main(command) == 2  # one failed
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "LoRA"
    assert [next(end.value for end in End if end.value in row) for row in rows] == [
        *["written"] * 2,
        *["failed"] * 2,
        *["declined"] * 2,
    ]
    assert all(str(out / f"{target} one.safetensors") in row for target, row in zip(("target", "pruned"), rows, strict=False))
    assert {path.name for path in out.iterdir()} == with_cards("target one", "pruned one")

    command = ["transfer", loras[0], loras[2], *command[4:]]
    report = out / "report.json"
    assert main([*command, "--skip-existing", "--json", "--report", str(report)]) == 3  # no worse than declined
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(report.read_text())
    assert [one["outcome"] for one in told] == ["existed already"] * 2 + ["declined"] * 2
    assert [one["report"] is None for one in told] == [True, True, False, False]
    assert main(["transfer", loras[0], *command[3:], "--skip-existing"]) == 0
    assert main(["transfer", loras[0], *command[3:], "--output", str(out / "file")]) == 2
    assert "not a folder, which --output must be for 2 adapters" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--skip-existing"], ["--skip-existing", "--overwrite"], []])
def test_a_report_and_an_adapter_of_one_name(
    folder: Path, out: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    command = ["transfer", str(folder / "Lora" / "one.safetensors"), "--source", str(folder / "base.safetensors")]
    command += ["--target", str(folder / "target.safetensors"), "--output", str(out / "o.safetensors"), "--method", "copy", *more]
    assert main([*command, "--report", str(out / "o.safetensors")]) == 2
    said = capsys.readouterr()
    assert "o.safetensors: named for the report and for an adapter" in said.out + said.err
    assert not load_adapter(out / "o.safetensors")


@pytest.mark.parametrize("more", [["--skip-existing"], []])
def test_a_report_where_a_card_would_be(folder: Path, out: Path, more: list[str]) -> None:
    command = ["transfer", str(folder / "Lora" / "one.safetensors"), "--source", str(folder / "base.safetensors")]
    command += ["--target", str(folder / "target.safetensors"), "--output", str(out / "o.safetensors"), "--method", "copy", *more]
    assert main([*command, "--report", str(out / "o.json")]) == 0
    assert load_adapter(out / "o.safetensors")
    told = json.loads((out / "o.json").read_text())
    assert told[0]["outcome"] == "written" if more else told["method"] == "copy"


def load_adapter(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}


def test_the_plain_command_still_writes_all_or_none(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loras = [str(folder / "Lora" / f"{name}.safetensors") for name in ("one", "diverged")]
    bases = ["--source", str(folder / "base.safetensors"), "--target", str(folder / "target.safetensors")]
    assert main(["transfer", *loras, *bases, "--output", str(out)]) == 2
    assert list(out.iterdir()) == []
    assert main(["transfer", *loras, *bases, "--output", str(out), "--skip-existing"]) == 2
    assert {path.name for path in out.iterdir()} == with_cards("one-target")


def test_no_input_of_the_batch_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A LoRA of another pass, a base and a card beside a LoRA."""
    loras = folder / "Lora"
    (loras / "one.json").write_text("{}")
    command = ["transfer", *(str(loras / f"{name}.safetensors") for name in ("far", "one")), "--models", str(folder)]
    command += ["--target", str(folder / "target.safetensors"), "--overwrite", "--method", "copy"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*command, "--name", "{lora}"]) == 2
    assert capsys.readouterr().out.count("which is read and must not change") == 2
    assert main([*command, "--report", str(loras / "one.json")]) == 2
    assert "which is read and must not change" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
