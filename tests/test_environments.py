"""Environments that lack packages of the extras, as the WebUI's own do: what needs them is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
