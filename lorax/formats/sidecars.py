"""Reads the files beside an adapter: the WebUI's card and Civitai Helper's information. Unreadable ones are logged."""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax.checkpoint import FAMILIES, Family
from lorax.errors import LoraxError
from lorax.files import is_file, read_json

CARD, CIVITAI = ".json", ".civitai.info"
PREVIEWS = tuple(stem + suffix for stem in ("", ".preview") for suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif"))
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hints:
    """The hints in all sidecars. ``base``: in Civitai's words, such as ``SD 1.5``; ``family``: from the card."""

    trigger_words: str = ""
    base: str = ""
    family: Family | None = None
    weight: float | None = None  # at which the card prefers the adapter


def read(adapter: Path) -> Hints:
    """Return the hints beside ``adapter``. The card's trigger words are preferred. Each state of the files is read once."""
    return _hints(adapter, changes(adapter))


def beside(adapter: Path) -> tuple[Path, ...]:
    """The names of all files that are read beside ``adapter``, whether there are such files or not."""
    return tuple(adapter.with_suffix(suffix) for suffix in (CARD, CIVITAI, *PREVIEWS))


def changes(adapter: Path) -> tuple[int, ...]:
    """Return a value that differs once a sidecar has changed."""
    files = (adapter.with_suffix(suffix) for suffix in (CARD, CIVITAI))
    return tuple(_changed(file) for file in files)


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except (OSError, ValueError):  # none, or none that can be read
        return 0


def content(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in the file; None if there is no file, or no JSON object in it, which is logged."""
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
    weight = card.get("preferred weight")
    preferred = float(weight) if isinstance(weight, int | float) and 0 < abs(weight) <= 10 else None  # the WebUI's 0 is none
    triggers = _text(card.get("activation text")) or listed
    return Hints(triggers, _text(civitai.get("baseModel")), family, preferred)


def _text(value: object) -> str:
    """Return a string that any page can show; empty if ``value`` is not a string."""
    return value.strip().encode(errors="replace").decode() if isinstance(value, str) else ""
