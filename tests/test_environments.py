"""Environments that lack packages of the extras, as the WebUI's own do: what needs them is skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dev
from tests import conftest, optional

ROOT = Path(__file__).resolve().parents[1]


def test_these_tests_have_the_hook() -> None:
    assert conftest.pytest_make_collect_report is optional.pytest_make_collect_report


@pytest.mark.parametrize(
    ("missing", "code"), [("lycoris", pytest.ExitCode.NO_TESTS_COLLECTED), ("lorax", pytest.ExitCode.INTERRUPTED)]
)
def test_only_packages_of_the_extras_may_be_missing(tmp_path: Path, missing: str, code: int) -> None:
    """A module of ours that cannot be imported is an error, here as everywhere."""
    (tmp_path / "test_one.py").write_text(f"raise ModuleNotFoundError(\"No module named '{missing}'\")")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "tests.optional", str(tmp_path)]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == code, run.stdout
    assert ("needs lycoris" in run.stdout) == (missing == "lycoris")


@pytest.mark.parametrize("host", dev.PINS)
def test_the_versions_of_a_host_are_exact(host: str) -> None:
    lines = (ROOT / "tests" / "pins" / f"{host}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert {"torch", "safetensors", "numpy", "gradio"} <= {pin.partition("==")[0] for pin in pins}
    assert [pin for pin in pins if not re.fullmatch(r"[\w-]+==[\d.]+", pin)] == []


def test_a_python_that_is_missing_is_told_and_an_error_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev, "find_python", lambda version: None)
    dev.pins([])
    for told, (host, version) in zip(capsys.readouterr().out.splitlines(), dev.PINS.items(), strict=True):
        assert told == f"The pins of {host} are not tested: there is no Python {version} that can make environments."
    with pytest.raises(SystemExit, match="Install it"):
        dev.pins(["neo"])


def test_pins_that_cannot_be_installed_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*command: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(dev, "find_python", lambda version: Path(sys.executable))
    monkeypatch.setattr(dev, "ROOM", 0)
    monkeypatch.setattr(dev, "install", fails)
    assert dev.with_pins_if_possible("a1111") is None
    assert "they cannot be installed here" in capsys.readouterr().out


def test_what_is_run_apart_is_named_after_tests() -> None:
    for folder, names in ((ROOT / "tests", dev.SHARE), (ROOT / "tests" / "webui", dev.IN_A_BROWSER)):
        assert [name for name in names if not (folder / f"test_{name}.py").is_file()] == []


def test_a_python_is_found_by_its_version() -> None:
    version = "{}.{}".format(*sys.version_info)
    assert dev.find_python(version) is not None
    assert dev.find_python("2.0") is None
