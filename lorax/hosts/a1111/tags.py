"""Knows the WebUI's LoRAs by their tags in prompts."""

import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lorax.formats import loraxfile

TAG = re.compile(r"<(?:lora|lyco):([^:>]+)((?::[^:>]*)*)>")


def loras() -> Any:
    """Return the module ``networks`` of the built-in extension Lora, or None if that is disabled."""
    module = sys.modules.get("networks")
    return module if hasattr(module, "available_networks") else None


def tag(adapter: Path, strength: float = 1.0) -> str:
    """Return the tag of an adapter's file, by the name that the WebUI's settings ask for."""
    network = found.available_networks.get(adapter.stem) if (found := loras()) else None  # it lists files without their folders
    name = network.get_alias() if network and Path(network.filename) == adapter else adapter.stem
    return f"<lora:{name}:{strength:g}>"


def file_of(name: str) -> Path | None:
    """Return the file that prompts load by this name, or None."""
    network = _listed(name)
    return Path(network.filename) if network else None


def is_lorax(name: str) -> bool:
    """Tell whether prompts load a LoRA-X file by this name, by what the WebUI knows of its header."""
    network = _listed(name)
    return network is not None and loraxfile.MARK in network.metadata


def replaced(prompt: str, files: Collection[Path], new: Callable[[Path, str], str]) -> str:
    """Return the prompt with ``new(file, arguments)`` instead of each tag of these files, such as of ``:0.8:te=0``."""

    def instead(found: re.Match[str]) -> str:
        file = file_of(found[1])
        return new(file, found[2]) if file in files and file is not None else found[0]

    return TAG.sub(instead, prompt)


def without(prompt: str, files: Collection[Path]) -> str:
    """Return the prompt without the tags of these files."""
    return replaced(prompt, files, lambda file, arguments: "")


def _listed(name: str) -> Any:
    """Return what the WebUI knows of the LoRA that prompts load by this name, or None."""
    found = loras()
    return found and (found.available_networks.get(name) or found.available_network_aliases.get(name))
