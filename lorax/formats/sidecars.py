"""Reads the files beside an adapter for hints: the WebUI's card and Civitai Helper's information.

A file that is damaged, or that belongs to another tool, is ignored with a line in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax.checkpoint import FAMILIES, Family
from lorax.errors import LoraxError
from lorax.files import is_file, read_json

CARD, CIVITAI = ".json", ".civitai.info"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hints:
    """The hints of all sidecars. ``base``: in Civitai's words, as ``SD 1.5``; ``family``: from the card."""

    trigger_words: str = ""
    base: str = ""
    family: Family | None = None


def read(adapter: Path) -> Hints:
    """The hints beside ``adapter``. The card's trigger words come before Civitai's. Each state of the files is read once."""
    return _hints(adapter, changes(adapter))


def changes(adapter: Path) -> tuple[int, ...]:
    """A value that differs once a sidecar has changed."""
    files = (adapter.with_suffix(suffix) for suffix in (CARD, CIVITAI))
    return tuple(_changed(file) for file in files)


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except (OSError, ValueError):  # none, or none that can be read
        return 0


def content(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file; None if there is none, which is logged if there is a file."""
    try:
        return read_json(path, "a card", "utf-8-sig") if is_file(path) else None
    except LoraxError as error:
        log.warning("Ignored: %s", error)
        return None


@lru_cache(maxsize=4096)
def _hints(adapter: Path, changed: tuple[int, ...]) -> Hints:
    card, civitai = (content(adapter.with_suffix(suffix)) or {} for suffix in (CARD, CIVITAI))
    words = civitai.get("trainedWords")
    listed = ", ".join(filter(None, map(_text, words))) if isinstance(words, list) else ""
    family = next((family for family in FAMILIES if family.card_version == card.get("sd version")), None)
    return Hints(_text(card.get("activation text")) or listed, _text(civitai.get("baseModel")), family)


def _text(value: object) -> str:
    """A string that any page can show; empty if ``value`` is no string."""
    return value.strip().encode(errors="replace").decode() if isinstance(value, str) else ""
