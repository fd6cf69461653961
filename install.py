"""Run by the WebUI before it starts: installs what the host lacks, and never changes the version of what it has."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# pyproject.toml's run-time dependencies but torch, which no WebUI starts without and which is the host's to choose.
NEEDED = {"safetensors": "safetensors", "numpy": "numpy", "scipy": "scipy", "tqdm": "tqdm", "pyyaml": "yaml"}  # package: module


def main() -> None:
    missing = [package for package, module in NEEDED.items() if find_spec(module) is None]
    if missing:
        # Naming the versions that are there keeps pip from upgrading them for the sake of a missing one.
        pip_install([*missing, *(pin for package in NEEDED if package not in missing for pin in pinned(package))])


def pinned(package: str) -> list[str]:
    try:
        return [f"{package}=={version(package)}"]
    except PackageNotFoundError:
        return []


def pip_install(packages: list[str]) -> None:
    command = ["install", *packages]
    try:
        from launch import run_pip  # the host's own, which minds its --skip-install and its package index
    except ImportError:
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    else:
        run_pip(" ".join(command), "requirements of LoRA-X")


main()
