"""Installs missing packages; the WebUI runs this before it starts. Versions of installed packages never change."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# The dependencies in pyproject.toml, except for torch, which every WebUI has and whose version the WebUI chooses.
NEEDED = {"safetensors": "safetensors", "numpy": "numpy", "scipy": "scipy", "tqdm": "tqdm", "pyyaml": "yaml"}  # package: module


def main() -> None:
    missing = [package for package, module in NEEDED.items() if find_spec(module) is None]
    if missing:
        # Pins keep pip from upgrading installed packages for a missing one.
        pip_install([*missing, *(pin for package in NEEDED if package not in missing for pin in pinned(package))])


def pinned(package: str) -> list[str]:
    try:
        return [f"{package}=={version(package)}"]
    except PackageNotFoundError:
        return []


def pip_install(packages: list[str]) -> None:
    command = ["install", *packages]
    try:
        from launch import run_pip  # the WebUI's own, which respects --skip-install and its package index
    except ImportError:
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    else:
        run_pip(" ".join(command), "requirements of LoRA-X")


main()
