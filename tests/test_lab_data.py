"""What is rendered is kept whole or not at all, so that a step that was stopped can be started again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lab import data
from lab.characters import FIGURES

CHARACTER = next(iter(FIGURES))  # a set that needs no package of its own, once its plain icons are there
ICON = np.full((data.SIZE, data.SIZE, 3), 7, np.uint8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for what is rendered, and nothing remembered before or after."""
    monkeypatch.setattr(data, "CACHE", tmp_path)
    monkeypatch.setattr(data, "_with_character", lambda _: {"anchor": ICON})
    data._load_one.cache_clear()
    data._svgs.cache_clear()
    yield tmp_path
    data._load_one.cache_clear()
    data._svgs.cache_clear()


def test_what_is_rendered_is_rendered_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(CHARACTER)
    assert [path.name for path in (cache / "icons").iterdir()] == [f"{CHARACTER}-{data.SIZE}.npz"]
    data._load_one.cache_clear()
    monkeypatch.setattr(data, "_with_character", lambda _: pytest.fail("it is there"))
    again = data.load(CHARACTER)
    assert first.captions == again.captions == [f"{CHARACTER}, anchor"]
    np.testing.assert_array_equal(again.images, ICON[None])


def test_a_rendering_that_is_stopped_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, **_: object) -> None:
        path.write_bytes(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(np, "savez_compressed", half)
        with pytest.raises(KeyboardInterrupt):
            data.load(CHARACTER)
    assert list((cache / "icons").iterdir()) == []
    np.testing.assert_array_equal(data.load(CHARACTER).images, ICON[None])


def test_a_package_that_is_not_fetched_whole_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(command: list[str], *, cwd: Path, check: bool) -> None:
        (cwd / "iconify-json-twemoji-1.2.5.tgz").write_bytes(b"\x1f\x8b")
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", half)
    with pytest.raises(subprocess.CalledProcessError):
        data.load("twemoji")
    assert list((cache / "npm").iterdir()) == []
