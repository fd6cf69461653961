"""Hashes of files, from one reading of each."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from lorax.checkpoint import open_checkpoint
from lorax.errors import Interrupted
from lorax.files import hashes, hashing
from tests import builders
from tests.samples import Files

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 7, 3 * MIB + 5])
def test_against_hashlib(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    found = hashes(path)
    assert found.sha256 == hashlib.sha256(content[:size]).hexdigest()
    assert found.legacy == hashlib.sha256(content[:size][0x100000:0x110000]).hexdigest()[:8]


def test_of_several_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(path.name * 5)
    assert hashes(*paths).sha256 == hashlib.sha256(b"aaaaabbbbb").hexdigest()


def test_a_reader_hears_how_far_it_is_and_may_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "EVERY", 2)
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * MIB))
    heard: list[int] = []

    def read(mebibytes: int) -> None:
        heard.append(mebibytes)
        if len(heard) == 4:
            raise Interrupted

    assert hashes(path, read=read) == hashes(path)
    assert heard == [0, 2, 4]
    with pytest.raises(Interrupted):
        hashes(path, read=read)


def test_a_base_is_read_once_for_both(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, folder = open_checkpoint(files.base), open_checkpoint(builders.save_folder(files.base_state, tmp_path / "folder"))
    opened, original = [], Path.open

    def counted(self: Path, *arguments: Any, **more: Any) -> Any:
        opened.append(self)
        return original(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", counted)
    found = base.identity.sha256, base.identity.legacy, base.identity.sha256
    assert [path.name for path in opened] == [files.base.name]
    assert (len(folder.identity.sha256), folder.identity.legacy) == (64, "")
    assert [path.name for path in opened[1:]] == ["diffusion_pytorch_model.safetensors", "model.safetensors"]
    monkeypatch.undo()
    content = files.base.read_bytes()
    assert found == (builders.sha256(files.base), hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8], found[0])
