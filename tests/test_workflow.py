"""What the tab and the API stand on: facts of adapters, destinations, several adapters at once, a folder as host."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorax.catalog import ListedFile, Sure, facts
from lorax.errors import Interrupted, LoraxError
from lorax.hosts.standalone import Standalone
from lorax.options import Options, Running, Saving
from lorax.progress import READING
from lorax.workflow import InFolder, Memory, Result, analyse, transfer
from tests import builders, library
from tests.library import made, request, silent
from tests.origins import origin
from tests.samples import Files


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    return library.make(tmp_path, files)


def test_a_folder_is_sorted_into_bases_and_adapters(folder: Path) -> None:
    host = Standalone(folder)
    assert set(host.bases()) == {"base", "target"}
    assert {"Lora/one", "Lora/styles/two", "Lora/LOUD"} <= set(host.adapters())
    assert host.adapter_folder == folder / "Lora"
    with pytest.raises(LoraxError, match="no such folder"):
        Standalone(folder / "absent")


def test_facts(folder: Path) -> None:
    found = facts(folder / "Lora" / "one.safetensors")
    assert (found.rank, found.format, found.trained_on, found.trigger_words) == ("4", "LoRA", "base.safetensors", "origami")
    assert "not a whole safetensors file" in facts(folder / "Lora" / "broken.safetensors").problem


def test_trigger_words_of_the_card_come_first_then_civitais(folder: Path) -> None:
    lora = folder / "Lora" / "styles" / "two.safetensors"
    lora.with_suffix(".civitai.info").write_text(json.dumps({"trainedWords": ["fold", "paper"]}))
    assert facts(lora).trigger_words == "fold, paper"
    lora.with_suffix(".json").write_text(json.dumps({"activation text": "crane"}))
    assert facts(lora).trigger_words == "crane"


def test_a_base_is_proposed_by_hash_or_by_name(files: Files, folder: Path, tmp_path: Path) -> None:
    named = folder / "Lora" / "one.safetensors"
    base, target = ListedFile("a", files.base), ListedFile("b", files.target)
    assert origin(named, [target, base]).base == base
    assert origin(folder / "Lora" / "styles" / "two.safetensors", [base, target]).sure is Sure.GUESS, "it names none"
    metadata = {"ss_sd_model_name": "base.safetensors", "ss_new_sd_model_hash": "ab" * 32}
    hashed = builders.save_lora(tmp_path / "hashed.safetensors", files.deltas, metadata=metadata)
    known = ListedFile("c", files.target, sha256="ab" * 32)
    assert origin(hashed, [base, known]).base == known


def test_several_adapters(folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith(("moving layers", "hashing", "writing")):
            seen.append((done, total))

    results = transfer(request(folder, "one", "styles/two"), InFolder(folder / "Lora"), progress)
    assert [result.written for result in results] == [
        folder / "Lora" / "one-target.safetensors",
        folder / "Lora" / "styles" / "two-target.safetensors",
    ]
    assert all(result.written and result.written.is_file() for result in results)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_analyse_writes_nothing(folder: Path) -> None:
    (result,) = analyse(request(folder, "one"), silent)
    assert result.report.coverage == 1
    assert result.written is None
    assert made(folder) == []


def test_a_stop_during_the_second_adapter_leaves_nothing(folder: Path) -> None:
    reached: list[float] = []

    def stop(done: int, total: int, text: str) -> None:
        if found := re.match(r"moving layers, (\d+) of (\d+)", text):
            reached.append(int(found[1]) / int(found[2]))
            if reached[-1] > 0.5:
                raise Interrupted

    with pytest.raises(Interrupted):
        transfer(request(folder, "one", "styles/two"), InFolder(folder / "Lora"), stop)
    assert made(folder) == []


@pytest.mark.parametrize("moment", ["hashing base", "hashing target", "writing one-target", "writing two-target", "the end"])
def test_a_stop_when_all_is_computed_leaves_nothing(folder: Path, moment: str) -> None:
    """The bases are read once more for their hashes, which takes long; the last moment is before the files take their places."""
    texts: list[str] = []

    def stop(done: int, total: int, text: str) -> None:
        texts.append(text)
        if text.startswith(moment) or (moment == "the end" and done == total and text.startswith("writing two")):
            raise Interrupted

    with pytest.raises(Interrupted):
        transfer(request(folder, "one", "styles/two"), InFolder(folder / "Lora"), stop)
    assert ("writing two-target.safetensors" in texts) is (moment in ("writing two-target", "the end"))
    assert made(folder) == []


@pytest.mark.parametrize(("save_as", "hashed"), [("lora", {"base", "target"}), ("lora-x", {"base"})])
def test_only_what_is_hashed_is_told_of(folder: Path, save_as: str, hashed: set[str]) -> None:
    asked, texts = request(folder, "one"), list[str]()
    known = replace(asked, source=replace(asked.source, sha256="a" * 64), target=replace(asked.target, sha256="b" * 64))
    for number, (one, expected) in enumerate(((asked, hashed), (known, set[str]()))):
        texts.clear()
        destination = InFolder(folder / "Lora", saving=Saving(save_as, name=str(number)))
        transfer(one, destination, lambda done, total, text: texts.append(text))
        assert {text.split()[1].rstrip(",") for text in texts if text.startswith("hashing")} == expected


def test_one_adapter_that_cannot_be_moved_stops_all_before_any_work(folder: Path) -> None:
    def read(done: int, total: int, text: str) -> None:
        assert text == READING

    with pytest.raises(LoraxError, match=r"broken\.safetensors"):
        transfer(request(folder, "one", "broken"), InFolder(folder / "Lora"), read)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ({"subfolder": ".."}, "outside of"),
        ({"subfolder": "a/../../b"}, "outside of"),
        ({"subfolder": "/tmp"}, "outside of"),
    ],
)
def test_nothing_is_written_outside_of_the_adapter_folder(folder: Path, destination: dict, expected: str) -> None:
    with pytest.raises(LoraxError, match=expected):
        transfer(request(folder, "one"), InFolder(folder / "Lora", **destination), silent)


def test_name_and_subfolder(folder: Path) -> None:
    (result,) = transfer(request(folder, "one"), InFolder(folder / "Lora", "moved/here", Saving(name="mine")), silent)
    assert result.written == folder / "Lora" / "moved" / "here" / "mine.safetensors"
    with pytest.raises(LoraxError, match="exists already"):
        transfer(request(folder, "one"), InFolder(folder / "Lora", "moved/here", Saving(name="mine")), silent)
    transfer(request(folder, "one"), InFolder(folder / "Lora", "moved/here", Saving(overwrite=True, name="mine")), silent)
    with pytest.raises(LoraxError, match="the name that two of the adapters get"):
        transfer(request(folder, "one", "styles/two"), InFolder(folder / "Lora", "x", Saving(name="same")), silent)


def test_a_transfer_does_not_repeat_what_was_analysed_just_before(folder: Path) -> None:
    def never(done: int, total: int, text: str) -> None:
        assert not text.startswith(("moving", "measuring")), "computed again"

    memory, asked = Memory(), request(folder, "one", "styles/two")
    analysed = analyse(asked, silent, memory)
    results = transfer(asked, InFolder(folder / "Lora"), never, memory)
    assert [result.report for result in results] == [result.report for result in analysed]
    (alone, _) = transfer(asked, InFolder(folder / "Lora", "alone"), silent)
    assert results[0].written is not None
    assert alone.written is not None
    found, expected = load_file(results[0].written), load_file(alone.written)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    transfer(asked, InFolder(folder / "Lora", "again", saving=Saving(dtype="fp32")), never, memory)

    changes = {
        "options": lambda: request(folder, "one", "styles/two", options=Options("copy", max_rank=2)),
        "running": lambda: replace(asked, running=Running(pictures=20)),
        "adapters": lambda: request(folder, "one"),
        "file": lambda: os.utime(folder / "base.safetensors", (0, 0)) or asked,
    }
    for change in changes.values():
        with pytest.raises(AssertionError, match="computed again"):
            analyse(change(), never, memory)


def test_a_hash_that_the_host_knows_is_not_computed(folder: Path) -> None:
    """Hashing takes longer than a copy."""
    asked = request(folder, "one")
    known = replace(asked, source=replace(asked.source, sha256="a" * 64), target=replace(asked.target, sha256="b" * 64))
    found = transfer(known, InFolder(folder / "Lora"), silent)[0].written
    assert found is not None
    header = builders.header(found)
    assert (header["lorax_source_model_hash"], header["ss_new_sd_model_hash"]) == ("a" * 64, "b" * 64)


def test_analyse_measures_every_layer_also_after_a_transfer(folder: Path, large: list[int]) -> None:
    memory, asked = Memory(), request(folder, "one")

    def measured(result: Result) -> int:
        return sum(record.similarity is not None for record in result.report.records)

    (moved,) = transfer(asked, InFolder(folder / "Lora"), silent, memory)
    (analysed,) = analyse(asked, silent, memory)
    (again,) = transfer(asked, InFolder(folder / "Lora", saving=Saving(name="again")), silent, memory)
    assert measured(moved) < measured(analysed) == measured(again) == len(analysed.report.records)


def test_what_is_large_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "LIMIT", 1000)
    memory = Memory()
    analyse(request(folder, "one"), silent, memory)
    seen: list[int] = []
    analyse(request(folder, "one"), lambda done, total, text: seen.append(done), memory)
    assert seen
