"""A whole library on one target: each verdict, in the words that the tab has, found once for all that are built alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.catalog import ListedFile, known
from lorax.checkpoint import Checkpoint
from lorax.cli import main
from lorax.files import Cache
from lorax.transfer import Kind
from lorax.transfer.verdict_words import words
from lorax.workflow import Group, Overview, Row, State, Verdicts, counts, row_as_json, selected, verdicts
from tests import builders
from tests.lab_models import committed
from tests.samples import Files, along, write

BASES = ("base", "finetune", "pruned", "scratch", "xl", "xl-pruned")


def listed(folder: Path, *names: str) -> list[ListedFile]:
    found = [folder / f"{name}.safetensors" for name in names] if names else sorted(folder.rglob("*.safetensors"))
    return [ListedFile(path.relative_to(folder).with_suffix("").as_posix(), path) for path in found]


def looked(adapters: Sequence[ListedFile], target: ListedFile, bases: Sequence[ListedFile], **how: Any) -> dict[str, Row]:
    overview = Overview(how.pop("by", None) or Verdicts(), adapters, target, bases, **how)
    return {row.adapter.name: row for row in overview.rows()}


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with a LoRA for each verdict on ``base``."""
    folder = tmp_path / "Lora"
    folder.mkdir()
    for name in BASES:
        shutil.copy(committed(f"contrast-r4-{name}"), folder / f"{name}.safetensors")
    tensors = load_file(folder / "base.safetensors")
    save_file(tensors, folder / "silent.safetensors")
    save_file(tensors, folder / "far.safetensors", {"ss_sd_model_name": "far.safetensors", "ss_new_sd_model_hash": "ab" * 32})
    flux = "lora_unet_double_blocks_0_img_attn_proj"
    save_file({f"{flux}.lora_{part}.weight": torch.ones(2, 2) for part in ("down", "up")}, folder / "flux.safetensors")
    write(folder / "bad.safetensors", b"bad")
    return folder


def test_each_verdict_of_the_labs_models_in_the_tabs_words(shelf: Path, models: Path) -> None:
    bases = listed(models, *BASES)
    found = looked(listed(shelf), bases[0], bases)
    assert {name: row.verdict.kind for name, row in found.items()} == {
        "base": Kind.SAME,
        "finetune": Kind.WORKS,
        "pruned": Kind.GAINS,
        "scratch": Kind.UNRELATED,
        "xl": Kind.CROSSED,
        "xl-pruned": Kind.CROSSED,
        "silent": Kind.SOURCE_UNKNOWN,
        "far": Kind.SOURCE_MISSING,
        "flux": Kind.OTHER_ARCHITECTURE,
        "bad": Kind.UNREADABLE,
    }
    alone = Verdicts().of_all([row.adapter for row in found.values()], bases[0], bases=bases)
    assert [row.words for row in found.values()] == [words(one) for one in alone]
    assert {name: row.source.name for name, row in found.items() if row.source} == {name: name for name in BASES}
    shown = {name: row_as_json(row) for name, row in found.items()}
    assert json.loads(json.dumps(shown)) == shown
    assert shown["silent"]["could_be"] == ["base", "finetune", "pruned", "scratch"]
    assert shown["far"]["missing"] == ["far.safetensors", "ab" * 32]
    assert shown["pruned"]["actions"][0]["do"] == "move"
    expected = {"gains": 1, "works": 2, "refine": 3, "unknown": 1, "missing": 1, "other": 1, "unreadable": 1}
    assert counts(found.values()) == expected


def test_many_that_are_built_alike_are_judged_once(
    shelf: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after a restart no checkpoint is read at all."""
    tensors = load_file(shelf / "pruned.safetensors")
    for number in range(30):
        save_file(tensors, shelf / f"more-{number}.safetensors", {"ss_sd_model_name": "pruned.safetensors", "of": str(number)})
    opened: list[str] = []
    read: list[str] = []
    open_adapter, stored = verdicts.open_adapter, Checkpoint.stored
    monkeypatch.setattr(verdicts, "open_adapter", lambda path: opened.append(path.stem) or open_adapter(path))
    monkeypatch.setattr(Checkpoint, "stored", lambda base, layer: read.append(layer) or stored(base, layer))
    bases, cache = listed(models, *BASES), Cache(tmp_path / "cache", 1 << 30, 0)
    before = looked(listed(shelf), bases[0], bases, by=Verdicts(cache))
    assert len(opened) == len(BASES)
    assert [before[f"more-{number}"].words for number in range(30)] == [before["pruned"].words] * 30
    opened.clear()
    read.clear()
    after = looked(listed(shelf), bases[0], bases, by=Verdicts(cache))
    assert {name: row.words for name, row in after.items()} == {name: row.words for name, row in before.items()}
    assert (opened, read) == ([], [])


def test_what_only_a_close_look_tells(files: Files, tmp_path: Path) -> None:
    """That the target has it already. Once it was told, it is known."""
    merged = ListedFile("merged", along(files, tmp_path / "merged.safetensors", 1.0))
    lora = tmp_path / "lora" / "style.safetensors"
    lora.parent.mkdir()
    builders.save_lora(lora, files.deltas, metadata={"ss_sd_model_name": "base.safetensors"})
    bases, by = [ListedFile("base", files.base), merged], Verdicts()
    assert looked(listed(lora.parent), merged, bases, by=by)["style"].group is Group.WORKS
    assert looked(listed(lora.parent), merged, bases, by=by, closely=True)["style"].group is Group.PRESENT
    assert looked(listed(lora.parent), merged, bases, by=by)["style"].group is Group.PRESENT


# --- what was moved already --------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(shelf: Path, models: Path) -> Path:
    """The shelf, with a LoRA that was moved to ``base``, and is called otherwise by now."""
    command = ["transfer", str(shelf / "pruned.safetensors"), "--source", str(models / "pruned.safetensors")]
    assert (
        main([*command, "--target", str(models / "base.safetensors"), "--output", str(shelf / "another name.safetensors")]) == 0
    )
    return shelf


def states(shelf: Path, models: Path, target: str = "base") -> dict[str, tuple[State, list[str]]]:
    bases = listed(models, *BASES)
    found = looked(listed(shelf), next(base for base in bases if base.name == target), bases)
    return {name: (row.state, [file.name for file in row.moved]) for name, row in found.items() if row.state is not State.NOT}


def test_what_was_moved_is_marked_by_what_is_written_in_the_file(moved: Path, models: Path) -> None:
    assert states(moved, models) == {"pruned": (State.DONE, ["another name"])}
    assert states(moved, models, "finetune") == {}, "it was moved to another checkpoint"
    bases = listed(models, *BASES)
    row = looked(listed(moved), bases[0], bases)["another name"]
    assert (row.verdict.kind, row.state) == (Kind.MADE, State.NOT), "which is one for this checkpoint itself"


def test_an_original_that_has_changed_since_is_marked(moved: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = moved / "pruned.safetensors"
    hashed: list[str] = []
    hashes = known.hashes
    monkeypatch.setattr(known, "hashes", lambda path: hashed.append(path.name) or hashes(path))
    states(moved, models)
    assert hashed == [], "it is older than the copy"
    later = (moved / "another name.safetensors").stat().st_mtime + 60
    os.utime(original, (later, later))
    for _ in range(2):
        assert states(moved, models)["pruned"][0] is State.DONE, "a copy of the same content"
    assert hashed == ["pruned.safetensors"], "once"
    tensors = load_file(original)
    save_file({key: 2 * value for key, value in tensors.items()}, original, {"ss_sd_model_name": "pruned.safetensors"})
    os.utime(original, (later, later))
    assert states(moved, models) == {"pruned": (State.CHANGED, ["another name"])}


def test_a_file_that_goes_meanwhile_takes_away_no_other(moved: Path, models: Path) -> None:
    bases = listed(models, *BASES)
    rows = iter(Overview(Verdicts(), listed(moved), bases[0], bases).rows())
    first = next(rows)
    (moved / "another name.safetensors").unlink()
    assert len({first.adapter.name, *(row.adapter.name for row in rows)}) == len(listed(moved)) + 1


def test_of_two_files_of_one_name_the_right_one_is_marked(moved: Path, models: Path) -> None:
    (moved / "deeper").mkdir()
    shutil.copy(moved / "scratch.safetensors", moved / "deeper" / "pruned.safetensors")
    assert states(moved, models) == {"pruned": (State.DONE, ["another name"])}


# --- filter, search, sort; the command line ----------------------------------------------------------------------------------


def test_rows_are_filtered_searched_and_sorted(moved: Path, models: Path) -> None:
    bases = listed(models, *BASES)
    rows = list(looked(listed(moved), bases[0], bases).values())

    def names(**asked: str) -> list[str]:
        return [row.adapter.name for row in selected(rows, **asked)]

    assert names(sort="name") == sorted(row.adapter.name for row in rows)
    assert names()[0] == "pruned", "what gains comes first"
    assert names(only="refine") == ["scratch", "xl", "xl-pruned"]
    assert names(only="done") == ["pruned"]
    assert names(search="xl PRUNED") == ["xl-pruned"]
    assert names(search="far.safetensors") == ["far"]
    assert names(only="refine", search="far") == []
    assert names(sort="source")[-1] == "silent"


def test_the_command_line(moved: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "Lora").symlink_to(moved)
    for name in BASES:
        (folder / f"{name}.safetensors").symlink_to(models / f"{name}.safetensors")
    command = ["library", "--models", str(folder), "--target", str(folder / "base.safetensors")]
    assert main(command) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[1].startswith("Lora/pruned        Gains by moving          Relatives that are built differently:")
    assert lines[1].endswith("Moved already.")
    assert lines[-1].startswith("11 of 11 LoRAs. Gains by moving: 1; Works as it is: 3; Needs Refine or Bridge: 3;")
    assert "is told once the LoRA itself is looked at" in shown.err
    assert main([*command, "--json", "--only", "missing", "--cache", str(tmp_path / "cache")]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert Path(row["path"]).is_file()
    assert (row["adapter"], row["missing"]) == ("Lora/far", ["far.safetensors", "ab" * 32])
    assert (tmp_path / "cache" / "library.sqlite").is_file()
    assert main([*command, "--search", "nothing like it"]) == 0
    assert capsys.readouterr().out.startswith("0 of 11 LoRAs.")
    assert main([*command[:3], "--target", str(moved / "bad.safetensors")]) == 2
    assert "bad.safetensors" in capsys.readouterr().err
