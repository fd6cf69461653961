"""A folder of strangers' files: links, names that are no text, and files that break whatever reads them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorax.catalog import facts, reading
from lorax.files import Inputs, as_utf8, files_below
from lorax.hosts.standalone import Standalone
from tests.origins import named, origin
from tests.samples import Files

ODD = os.fsdecode(b"caf\xe9.safetensors")  # Latin-1, which is no UTF-8


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "models" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for file in ("models/a.safetensors", "models/deep/b.SAFETENSORS", "elsewhere/c.safetensors", "models/d.txt"):
        (tmp_path / file).write_bytes(b"")
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "models" / "deep" / "up").symlink_to(tmp_path / "models")
    (tmp_path / "elsewhere" / "itself").symlink_to(tmp_path / "elsewhere" / "itself")
    found = [path.relative_to(tmp_path / "models").as_posix() for path in files_below(tmp_path / "models", [".safetensors"])]
    assert sorted(found) == ["a.safetensors", "deep/b.SAFETENSORS", "linked/c.safetensors"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep such names out")
def test_names_that_are_no_text_are_listed(files: Files, tmp_path: Path) -> None:
    shutil.copy(files.lora, tmp_path / ODD)
    shutil.copy(files.lora, tmp_path / os.fsdecode(b"caf\xe8.safetensors"))
    host = Standalone(tmp_path)
    assert sorted(host.adapters()) == ["caf?", "caf?.safetensors"]
    assert {model.path.name for model in host.adapters().values()} == {path.name for path in tmp_path.iterdir()}
    json.dumps(sorted(host.adapters()), ensure_ascii=False).encode()
    assert as_utf8(ODD) == "caf?.safetensors"


def test_files_of_one_stem_are_both_listed(files: Files, tmp_path: Path) -> None:
    shutil.copy(files.base, tmp_path / "base.safetensors")
    torch.save(load_file(files.base), tmp_path / "base.ckpt")
    assert list(Standalone(tmp_path).bases()) == ["base", "base.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other ones")
def test_a_folder_that_may_not_be_looked_into_hides_nothing(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user who is not root finds it: the names may be read, what they name may not."""
    shutil.copy(files.lora, tmp_path / "good.safetensors")
    (tmp_path / "shut.safetensors").symlink_to("anywhere")
    looked_at = Path.stat

    def stat(path: Path, **more: bool) -> os.stat_result:
        if path.stem == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return looked_at(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    assert [path.name for path in files_below(tmp_path, [".safetensors"])] == ["good.safetensors"]
    read = Inputs([tmp_path / "shut.safetensors", tmp_path / "good.safetensors"])
    assert read.holding(tmp_path / "good.safetensors")
    assert not read.holding(tmp_path / "shut.safetensors")


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError(), RuntimeError("broken"), ValueError("\udcff")])
def test_one_bad_file_never_hides_the_others(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever its reader raises, at the start, on Refresh and in the table of facts."""
    for name in ("bad", "good"):
        shutil.copy(files.lora, tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(reading.log, "disabled", True)  # pytest-xdist cannot carry half a surrogate pair in a captured log
    monkeypatch.setattr(reading, "outline", lambda path: None)  # each is opened, also one that is built like another
    for name in ("open_checkpoint", "open_adapter"):
        opened = getattr(reading, name)

        def failing(path: Path, *more: object, opened: object = opened) -> object:
            if Path(path).stem == "bad":
                raise error
            return opened(path, *more)  # type: ignore[operator]

        monkeypatch.setattr(reading, name, failing)
    host = Standalone(tmp_path)
    host.refresh()
    assert list(host.adapters()) == ["bad", "good"]
    assert facts(tmp_path / "bad.safetensors").problem.startswith(f"{tmp_path / 'bad.safetensors'}: cannot be read")
    assert facts(tmp_path / "good.safetensors").problem == ""
    assert origin(tmp_path / "bad.safetensors", []).base is named(tmp_path / "bad.safetensors", []) is None
