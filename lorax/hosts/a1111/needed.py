"""Tells whether a WebUI has the modules that the host needs, before any of them is imported. SD.Next has not."""

import sys
from importlib.util import find_spec

NEEDED = (
    "call_queue",
    "devices",
    "paths_internal",
    "processing",
    "scripts",
    "sd_models",
    "sd_samplers",
    "sd_unet",
    "shared",
    "ui_tempdir",
    "util",
)


def missing() -> list[str]:
    """Return the names of the needed modules that the WebUI does not have."""
    return [name for name in (f"modules.{name}" for name in NEEDED) if not _exists(name)]


def _exists(name: str) -> bool:
    try:
        return name in sys.modules or find_spec(name) is not None
    except ModuleNotFoundError:  # nor is what it would be in a package
        return False
