"""What is known of an adapter before it is moved: its facts, its trigger words, and the base that it says it was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError
from lorax.formats import AdapterFile, open_adapter
from lorax.tensors import legacy_hash

SIDECARS = (".json", ".civitai.info")  # the WebUI's card, Civitai Helper's


@dataclass(frozen=True)
class Model:
    """A base or an adapter as its host lists it. ``sha256`` is given where the host has it at hand."""

    name: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class Facts:
    """An adapter in a few words. ``problem``: why it cannot be moved, else empty."""

    rank: str = ""
    format: str = ""
    family: str = ""
    trained_on: str = ""  # file name of the base, as the metadata has it
    trigger_words: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return "cannot be moved"
        words = [f"rank {self.rank}", self.format, self.family, self.trained_on and f"trained on {self.trained_on}"]
        return ", ".join(filter(None, words))


def facts(adapter: Path) -> Facts:
    """Read from the header and the sidecars, once for each state of these files."""
    files = (adapter, *(adapter.with_suffix(suffix) for suffix in SIDECARS))
    return _facts(adapter, tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


def propose(adapter: Path, bases: Iterable[Model]) -> Model | None:
    """The base that the adapter's metadata names, by its hash or else by its name, if it is among ``bases``."""
    try:
        metadata = open_adapter(adapter).metadata
    except LoraxError:
        return None
    sha256, name = metadata.get("ss_new_sd_model_hash"), _name(metadata.get("ss_sd_model_name", ""))
    bases = list(bases)
    if found := next((base for base in bases if sha256 and base.sha256 == sha256), None):
        return found
    if found := next((base for base in bases if name and _name(base.path.name) == name), None):
        return found
    legacy = metadata.get("ss_sd_model_hash")
    return next((base for base in bases if legacy and base.path.is_file() and legacy_hash(base.path) == legacy), None)


@lru_cache(maxsize=4096)
def _facts(path: Path, changed: tuple[int, ...]) -> Facts:
    try:
        adapter = open_adapter(path)
    except (LoraxError, OSError) as error:
        return Facts(problem=str(error))
    ranks = sorted(adapter.ranks)
    return Facts(
        rank=f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
        format="LoRA-X" if adapter.header else "LoRA",
        family=adapter.family.title if adapter.family else "",
        trained_on=adapter.metadata.get("ss_sd_model_name", ""),
        trigger_words=_trigger_words(adapter),
    )


def _trigger_words(adapter: AdapterFile) -> str:
    """From the WebUI's card, else from Civitai's sidecar, else from the file itself."""
    card, civitai = (_read(adapter.path.with_suffix(suffix)) for suffix in SIDECARS)
    trained = civitai.get("trainedWords")
    listed = ", ".join(str(word) for word in trained) if isinstance(trained, list) else ""
    return str(card.get("activation text") or listed or adapter.metadata.get("modelspec.trigger_phrase", ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or another tool's file of the same name
        return {}
    return content if isinstance(content, dict) else {}


def _name(file: str) -> str:
    name = file.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return (stem if dot and suffix.lower() in ("safetensors", "ckpt", "pt") else name).lower()
