"""Registers the LoRA-X network type with the WebUI. What fitting needs is imported when the first network is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.paths_internal import data_path

from lorax.hosts import a1111_network


def cache() -> Any:
    from lorax.cache import Cache

    return Cache(Path(data_path) / "cache" / "lorax", disk_limit=4 << 30, memory_limit=256 << 20)


LoraxNetworks = a1111_network.register(cache)  # the WebUI looks for script classes among this module's names
