"""Sets this repository up and runs it. Needs Python 3.10 or newer and nothing else.

    python dev.py demo [...]    move a LoRA between the bundled models; what follows goes to ``python -m lorax demo``
    python dev.py test [...]    lint, check types and test; what follows goes to pytest

The first run makes .venv and installs what pyproject.toml lists; later runs install only after pyproject.toml has changed.
Which build of torch arrives (CPU or CUDA) is for pip's configuration to say.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main(arguments: list[str]) -> None:
    commands = {"demo": demo, "test": test}
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    if not arguments or arguments[0] not in commands:
        sys.exit(__doc__)
    name, *rest = arguments
    install(name)
    commands[name](rest)


def demo(arguments: list[str]) -> None:
    step("demo", PYTHON, "-m", "lorax", "demo", *arguments)


def test(arguments: list[str]) -> None:
    step("lint", PYTHON, "-m", "ruff", "check")
    step("format", PYTHON, "-m", "ruff", "format", "--check")
    step("types", PYTHON, "-m", "mypy", "lorax")
    step("tests", PYTHON, "-m", "pytest", *arguments)


def install(extra: str) -> None:
    """Bring .venv up to date with pyproject.toml, for one of its extras."""
    stamp = VENV / f"{extra}.stamp"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if PYTHON.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return
    if not has_pip():
        step("make .venv", sys.executable, "-m", "venv", "--clear", VENV)
    step(f"install [{extra}]", PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--editable", f".[{extra}]")
    stamp.write_text(wanted)


def has_pip() -> bool:
    """Whether .venv is whole: where Debian's python3-venv is missing, ``venv`` leaves one without pip behind."""
    command: list[str | Path] = [PYTHON, "-m", "pip", "--version"]
    return PYTHON.exists() and subprocess.run(command, capture_output=True).returncode == 0


def step(title: str, *command: str | Path) -> None:
    """Run a command in the repository's root; end with its exit code if that is not 0."""
    print(f"== {title}", flush=True)
    if code := subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(code)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
