"""What the WebUI runs before it starts: nothing where all is there, and never another version of what is."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

INSTALL = Path(__file__).resolve().parents[1] / "install.py"


def asked_of_pip(monkeypatch: pytest.MonkeyPatch, missing: str = "") -> list[str]:
    asked: list[str] = []
    find = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "launch", SimpleNamespace(run_pip=lambda command, what: asked.append(command)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    runpy.run_path(str(INSTALL))
    return asked


def test_nothing_is_installed_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_of_pip(monkeypatch) == []


def test_what_is_missing_is_installed_without_touching_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = asked_of_pip(monkeypatch, "tqdm")
    kept = [f"{package}=={version(package)}" for package in ("safetensors", "numpy", "scipy", "pyyaml")]
    assert command.split() == ["install", "tqdm", *kept]
