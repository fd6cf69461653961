"""The checkout of a WebUI that ``LORAX_WEBUI_DIR`` names: AUTOMATIC1111, or one that was made from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.ui.double import KINDS

INSTALLATION = Path(os.environ.get("LORAX_WEBUI_DIR", ""))
PYTHON = Path(os.environ.get("LORAX_WEBUI_PYTHON") or INSTALLATION / "venv" / "bin" / "python")
# Where a WebUI declares its flags, and those that have it compute on the CPU, in single precision, without a word too many.
DECLARED = ("modules/cmd_args.py", "backend/args.py", "ldm_patched/modules/args_parser.py")
ON_CPU = ("--cpu", "--always-cpu", "--use-cpu all")  # the first that it knows; some know the last one, and do nothing for it
WANTED = (
    "--skip-torch-cuda-test",
    "--skip-prepare-environment",
    "--skip-python-version-check",
    "--no-half-vae",
    "--no-download-sd-model",
    "--disable-console-progressbars",
    f"--gradio-allowed-path {INSTALLATION}",  # without it, some refuse their own scripts to a page over another data folder
)


def kind_of(checkout: Path) -> str:
    """Which shape of the double is to be like it."""
    files = {kind: f"{manager.replace('.', '/')}.py" for kind, (_, manager) in KINDS.items() if manager}
    return next((kind for kind, file in files.items() if (checkout / file).is_file()), "a1111")


def extension(checkout: Path) -> str:
    """The folder of the built-in extension Lora."""
    names = (f"extensions-builtin/{name}" for name in ("Lora", "sd_forge_lora"))
    return next(name for name in names if (checkout / name).is_dir())


def known_flags() -> list[str]:
    """The flags that this WebUI knows."""
    files = (INSTALLATION / file for file in DECLARED)
    declared = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    known = [flag for flag in WANTED if f'"{flag.split()[0]}"' in declared]
    return " ".join([*known, next(flag for flag in ON_CPU if f'"{flag.split()[0]}"' in declared)]).split()


KIND = kind_of(INSTALLATION)
HAS_TYPES = KIND == "a1111"
PROBE = Path(__file__).with_name(f"probe_{KIND}.py")  # has such a WebUI draw with the small models
UNSET = "LORAX_WEBUI_DIR is not set: the tests in a real WebUI are not run" if Path() == INSTALLATION else ""
UNTOLD = "" if PROBE.is_file() else f"there is no {PROBE.name}, to tell this WebUI the small models' sizes"
needs_webui = pytest.mark.skipif(bool(UNSET or UNTOLD), reason=UNSET or UNTOLD)
needs_types = pytest.mark.skipif(not HAS_TYPES, reason="this WebUI has no network types, whose modules this is about")
needs_flags = pytest.mark.skipif(not HAS_TYPES, reason="this WebUI manages memory by itself, and has no such flags")
needs_fp8 = pytest.mark.skipif(not HAS_TYPES, reason="this WebUI has no setting for FP8, or one that it does nothing for")
needs_model = pytest.mark.skipif(not HAS_TYPES, reason="this WebUI's own model cannot be trained; our runner runs it")
