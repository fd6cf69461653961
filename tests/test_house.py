"""The house rules that a linter does not know: sizes, and docstrings that can be read alone."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEANING = re.compile(r"(Of|The same|By|As|With|Where|From)\b")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions() -> Iterator[tuple[str, Definition]]:
    for path in sorted((ROOT / "lorax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Definition):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def parameters(node: Definition) -> list[str]:
    if isinstance(node, ast.ClassDef):
        return []
    return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]


def test_few_modules_lie_flat_and_files_are_short() -> None:
    assert len(list((ROOT / "lorax").glob("*.py"))) <= 15
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "lorax").rglob("*.py")}
    assert [str(path) for path, count in lines.items() if count > 300] == []


def test_functions_are_short_and_take_few_parameters() -> None:
    functions = [(where, node) for where, node in definitions() if not isinstance(node, ast.ClassDef)]
    assert [where for where, node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []
    assert [where for where, node in functions if len(parameters(node)) > 7] == []


def test_docstrings_can_be_read_alone() -> None:
    assert [where for where, node in definitions() if LEANING.match(ast.get_docstring(node) or "")] == []


def test_a_checkout_is_light() -> None:
    """Everybody who installs the extension has all of it."""
    git = shutil.which("git")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True) if git else None
    if listed is None or listed.returncode:
        pytest.skip("not a checkout that git can list")
    files = [path for name in listed.stdout.decode().split("\0") if (path := ROOT / name).is_file()]
    assert sum(path.stat().st_size for path in files) < 40_000_000
