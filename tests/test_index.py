"""What is known of a library's files: read once, kept between starts, read anew when it has changed, and never wrong."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lorax import catalog
from lorax.catalog import FileKind, known, reading
from lorax.catalog import index as indexing
from lorax.catalog.index import NAME, Index
from lorax.catalog.record import Record
from lorax.cli import main
from tests import builders
from tests.lab_models import committed
from tests.samples import Files, arguments

NAMED = {"ss_sd_model_name": "base.safetensors", "modelspec.trigger_phrase": "origami"}


class Reads(list[str]):
    """The files that were read, in order. ``restart`` forgets what a process knows."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.folder, self._monkeypatch = folder, monkeypatch
        read = reading.read

        def counted(path: Path) -> Record:
            self.append(path.name)
            return read(path)

        monkeypatch.setattr(known, "read", counted)
        monkeypatch.setattr(known, "_index", Index(folder))

    def restart(self) -> None:
        known._index.close()
        self.clear()
        self._monkeypatch.setattr(known, "_index", Index(self.folder))


def test_what_a_strangers_header_says_is_cut_and_loads_nothing(files: Files, tmp_path: Path) -> None:
    said = {"ss_sd_model_name": "x" * 100_000, "modelspec.trigger_phrase": "ink <lora:evil:9>, <lo<x>ra:evil:9>" + "y" * 100_000}
    found = known.facts(builders.save_lora(tmp_path / "a.safetensors", files.deltas, metadata=said))
    assert len(found.trained_on) < 5000
    assert len(found.trigger_words) < 5000
    assert found.trigger_words.startswith("ink , lora:evil:9yyy")


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(tmp_path / "cache", monkeypatch)


@pytest.fixture
def loras(files: Files, tmp_path: Path) -> list[Path]:
    (tmp_path / "Lora").mkdir()
    names = [tmp_path / "Lora" / f"{name}.safetensors" for name in ("one", "two", "three")]
    return [builders.save_lora(name, files.deltas, metadata=NAMED | {"of": name.stem}) for name in names]


def test_a_file_is_read_once_also_after_a_restart_until_it_changes(reads: Reads, loras: list[Path], files: Files) -> None:
    before = [catalog.record(lora) for lora in loras]
    assert [one.facts.trigger_words for one in before] == ["origami"] * 3
    assert reads == [lora.name for lora in loras]
    assert [catalog.record(lora) for lora in loras] == before
    reads.restart()
    assert catalog.seen(loras[0]) is None, "nothing is read before it is asked for"
    assert [catalog.record(lora) for lora in loras] == before
    assert reads == []
    assert catalog.seen(loras[0]) == before[0]
    builders.save_lora(loras[0], files.deltas[:3], metadata=NAMED)
    loras[1].with_suffix(".json").write_text(json.dumps({"activation text": "crane"}))
    loras[2].unlink()
    found = [catalog.record(lora) for lora in loras]
    assert reads == [lora.name for lora in loras]
    assert found[0].structure != before[0].structure
    assert found[1].facts.trigger_words == "crane"
    assert found[2].kind is FileKind.GONE
    reads.restart()
    assert [catalog.record(lora) for lora in loras[:2]] == found[:2]
    assert reads == []


def test_what_older_code_has_read_is_read_anew(reads: Reads, loras: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.facts(loras[0])
    reads.restart()
    monkeypatch.setattr(known, "_reader", lambda: "newer")
    catalog.facts(loras[0])
    assert reads == [loras[0].name]


def test_what_the_user_said_outlives_a_restart_and_our_code_and_not_a_change(
    reads: Reads, loras: list[Path], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "a base \udcff.safetensors"  # not UTF-8
    catalog.confirm(loras[0], base)
    reads.restart()
    monkeypatch.setattr(known, "_reader", lambda: "newer")
    assert [catalog.record(lora).confirmed for lora in loras] == [str(base), "", ""]
    assert catalog.sha256(loras[0])
    loras[0].with_suffix(".json").write_text(json.dumps({"activation text": "crane"}))
    assert catalog.record(loras[0]).confirmed == str(base), "it is the same LoRA"
    builders.save_lora(loras[0], files.deltas[:3], metadata=NAMED)
    assert not catalog.record(loras[0]).confirmed
    catalog.confirm(loras[1], base)
    catalog.forget()
    reads.restart()
    assert catalog.record(loras[1]).confirmed == str(base), "it is no cache"


def test_what_passes_is_not_kept(reads: Reads, loras: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that a share was away, or that memory was short."""
    with monkeypatch.context() as short:
        for name in ("outline", "open_adapter"):
            short.setattr(reading, name, lambda path: (_ for _ in ()).throw(MemoryError()))
        assert catalog.facts(loras[0]).problem
    assert not catalog.facts(loras[0]).problem


def _garbage(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def _torn(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)


def _other(statement: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with sqlite3.connect(file) as connection:
            connection.executescript(statement)
        connection.close()

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _garbage,
        _torn,
        _other("PRAGMA user_version = 99"),
        _other("DROP TABLE files; CREATE TABLE files (path, other)"),
        _other("UPDATE files SET record = '{}'"),
        _other("UPDATE files SET record = 'x'"),
        _other("UPDATE files SET record = replace(record, 'adapter', 'x')"),
    ],
)
def test_a_damaged_index_is_made_anew(reads: Reads, loras: list[Path], damage: Callable[[Path], None]) -> None:
    before = [catalog.record(lora) for lora in loras]
    known._index.close()
    damage(reads.folder / NAME)
    for expected in ([lora.name for lora in loras], []):
        reads.restart()
        assert [catalog.record(lora) for lora in loras] == before
        assert reads == expected


def test_where_nothing_can_be_written_memory_does(reads: Reads, loras: list[Path]) -> None:
    reads.folder.write_bytes(b"a file where the folder should be")
    for _ in range(2):
        assert [catalog.facts(lora).trigger_words for lora in loras] == ["origami"] * 3
    assert len(reads) == 3


def test_the_index_has_a_bound(reads: Reads, loras: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "MOST", 2)
    for lora in loras:
        catalog.facts(lora)
    reads.restart()
    for lora in loras[::-1]:
        catalog.facts(lora)
    assert reads == [loras[0].name], "the one that was read longest ago is not kept"


def _reader(folder: Path, cache: Path, failures: Any) -> None:
    catalog.keep_in(cache)
    for lora in sorted(folder.iterdir()):
        if catalog.facts(lora).trigger_words != "origami":
            failures.put(lora.name)
        known._index.flush()  # as often as never otherwise
    known._index.close()


def test_several_processes_share_it(reads: Reads, loras: list[Path]) -> None:
    for number in range(12):
        shutil.copy(loras[0], loras[0].with_name(f"{number}.safetensors"))
    spawning = multiprocessing.get_context("spawn")
    failures = spawning.Queue()
    readers = [spawning.Process(target=_reader, args=(loras[0].parent, reads.folder, failures)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    assert [reader.exitcode for reader in readers] == [0] * 3
    assert failures.empty()
    assert all(catalog.facts(lora).trigger_words == "origami" for lora in loras[0].parent.iterdir())
    assert reads == [], "all of them are there, whoever has written them"


# --- what a look costs, and that the short way tells what the long one does --------------------------------------------------


def test_of_files_that_are_built_alike_one_is_opened(
    reads: Reads, loras: list[Path], files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the others the header is read once, and nothing else."""
    opened: list[str] = []
    parts: list[tuple[str, int]] = []
    monkeypatch.setattr(reading, "_structures", {})
    open_adapter, outline = reading.open_adapter, reading.outline

    def counted(path: Path) -> Any:
        opened.append(Path(path).name)
        return open_adapter(path)

    def measured(path: Path) -> Any:
        parts.append((path.name, int.from_bytes(path.read_bytes()[:8], "little")))
        return outline(path)

    monkeypatch.setattr(reading, "open_adapter", counted)
    monkeypatch.setattr(reading, "outline", measured)
    for lora in loras:
        catalog.facts(lora)
    assert opened == [loras[0].name]
    assert [name for name, _ in parts] == [lora.name for lora in loras]


@pytest.mark.parametrize("naming", ["kohya", "peft", "diffusers"])
def test_the_short_way_tells_the_same(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naming: str) -> None:
    first = builders.save_lora(tmp_path / "first.safetensors", files.deltas, naming)
    metadata = NAMED | {"ss_new_sd_model_hash": "ab" * 32, "ss_base_model_version": "sd_v1_v", "odd": 'é"\\}'}
    second = builders.save_lora(tmp_path / "second.safetensors", files.deltas, naming, metadata)
    monkeypatch.setattr(reading, "_structures", {})
    long = reading.read(second)
    monkeypatch.setattr(reading, "_structures", {})
    assert reading.read(first).structure != long.structure, "another prediction"
    with monkeypatch.context() as never:
        never.setattr(reading, "open_adapter", None)
        assert reading.read(second) == long
    assert (long.facts.trained_on, long.facts.rank, long.named_by[0]) == ("base.safetensors", "4", "ab" * 32)


@pytest.mark.parametrize("base", ["base", "pruned", "xl", "xl-pruned"])
def test_real_ones_are_read_alike_both_ways(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = committed(f"contrast-r4-{base}")
    monkeypatch.setattr(reading, "_structures", {})
    assert reading.read(lora) == reading.read(lora)
    assert not reading.read(lora).facts.problem


def test_no_short_way_around_damage(files: Files, tmp_path: Path) -> None:
    whole = builders.save_lora(tmp_path / "whole.safetensors", files.deltas, metadata=NAMED)
    assert not reading.read(whole).facts.problem
    content = whole.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = {
        "cut": content[:-1],
        "longer": content + b"0",
        "half a letter": content.replace(b"origami", b"\\udead0"),
        "no text": content.replace(b'"origami"', b"[1,2,3,4]"),
        "twice": content[:8] + content[8 : 8 + length].replace(b'"F32"', b'"F16"', 1) + content[8 + length :],
    }
    for name, changed in metadata.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(changed)
        assert str(file) in reading.read(file).facts.problem, name


def test_what_another_process_was_told_outlives_a_clearing(tmp_path: Path) -> None:
    ours, theirs = Index(tmp_path), Index(tmp_path)
    assert ours.confirmed("/lora") is theirs.confirmed("/lora") is None
    theirs.confirm("/lora", "1 1", "/base")
    ours.clear()
    theirs.confirm("/other", "1 1", "/base")
    ours.close()
    theirs.close()
    restarted = Index(tmp_path)
    assert [restarted.confirmed(path) for path in ("/lora", "/other")] == [("1 1", "/base")] * 2
    restarted.close()


def test_a_clearing_that_was_not_possible_can_be_tried_again(
    tmp_path: Path, loras: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "PATIENCE", 0.1)
    ours = Index(tmp_path)
    ours.put("/lora", "1 1", reading.read(loras[0]))
    ours.flush()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not ours.clear()
        other.execute("ROLLBACK")
        assert ours.clear()
        assert other.execute("SELECT * FROM files").fetchall() == []
    ours.confirm("/lora", "1 1", "/base")
    ours.close()
    restarted = Index(tmp_path)
    assert restarted.confirmed("/lora") == ("1 1", "/base")
    restarted.close()


def test_a_lorax_file_is_no_structure(files: Files, tmp_path: Path, out: Path) -> None:
    """Its header tells where its layers go, too."""
    moved = out / "x.safetensors"
    command = ["transfer", *arguments(files), "--method", "copy", "--save-as", "lora-x", "--output", str(moved)]
    assert main(command) == 0
    found = reading.read(moved)
    assert (found.facts.format, found.structure) == ("LoRA-X", "")
    plain = builders.save_lora(tmp_path / "plain.safetensors", files.deltas)
    settings = {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "r": 4})}
    save_file(load_file(plain), tmp_path / "diffusers.safetensors", settings)
    assert reading.read(plain).structure
    assert reading.read(tmp_path / "diffusers.safetensors").structure == ""


def test_the_kinds_of_files(files: Files, tmp_path: Path) -> None:
    assert catalog.record(files.base).kind is FileKind.BASE
    assert catalog.record(files.base).family == "sd1"
    assert catalog.record(files.lora).kind is FileKind.ADAPTER
    other = tmp_path / "vae.safetensors"
    save_file({"decoder.conv_in.weight": load_file(files.lora)[next(iter(load_file(files.lora)))].clone()}, other)
    assert catalog.record(other).kind is FileKind.OTHER
    assert catalog.record(tmp_path / "none.safetensors").kind is FileKind.GONE
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    assert catalog.record(tmp_path / "bad.safetensors").kind is FileKind.ADAPTER, "listed, with the reason"
    os.truncate(tmp_path / "bad.safetensors", 0)
    assert catalog.facts(tmp_path / "bad.safetensors").problem
