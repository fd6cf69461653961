"""Writes a single adapter, as a transfer does, for what has planned and run it by itself."""

from __future__ import annotations

from pathlib import Path

from lorax import output
from lorax.files import Inputs, Staging, check_folder, check_free
from lorax.options import LORAX, Saving
from lorax.transfer import Layers, Moved, Plan, Report


def write(plan: Plan, moved: Moved, path: Path, *, dtype: str = "fp16", overwrite: bool = False) -> list[Path]:
    """Write what was moved as a plain LoRA, with its preview and card; return the files."""
    return _write(plan, moved, path, Saving(dtype=dtype, overwrite=overwrite))


def save_lorax(plan: Plan, path: Path, *, dtype: str = "fp16", overwrite: bool = False) -> list[Path]:
    """Write the plan's adapter as it is for its source as a LoRA-X file; return the files."""
    return _write(plan, Moved(Layers(), Report([], plan.options.method)), path, Saving(LORAX, dtype, overwrite))


def _write(plan: Plan, moved: Moved, path: Path, saving: Saving) -> list[Path]:
    check_folder(path)
    check_free(path, Inputs(plan.inputs), saving.overwrite)
    with Staging() as staging:
        return output.stage(plan, moved, path, staging, saving)
