"""Tells the WebUI of the LoRA-X network type."""

from pathlib import Path

from modules.paths_internal import data_path

from lorax.cache import Cache
from lorax.hosts import a1111_network

LoraxNetworks = a1111_network.register(lambda: Cache(Path(data_path) / "cache" / "lorax", 4 << 30, 256 << 20))
