"""Reads the files beside an adapter: the WebUI's card, and what other programs keep of it. Unreadable ones are logged."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax.checkpoint import FAMILIES, Family
from lorax.errors import LoraxError
from lorax.files import is_file, json_object, read_json

# The WebUI's card, and what Civitai Helper, LoRA Manager and Stability Matrix keep.
CARD, CIVITAI, MANAGER, MATRIX = ".json", ".civitai.info", ".metadata.json", ".cm-info.json"
ALL = (CARD, CIVITAI, MANAGER, MATRIX)
STEMS = ("", ".preview")
PICTURES = tuple(stem + suffix for stem in STEMS for suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif"))
# Those of PICTURES can be drawn anew; hosts show the others, too.
PREVIEWS = PICTURES + tuple(stem + suffix for stem in STEMS for suffix in (".jxl", ".avif", ".heif", ".mp4", ".webm"))
TEXTS = (".txt", ".description.txt")  # which the WebUI shows if the card has no description
LONGEST = 4000  # characters of one text that is taken from these files
MOST_TEXT = 64 << 10  # bytes of a file of ``TEXTS`` that are read
NO_BASE = ("", "unknown", "other")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hints:
    """The hints in all sidecars. ``base``: in Civitai's words, such as ``SD 1.5``; ``family``: from the card."""

    trigger_words: str = ""
    base: str = ""
    family: Family | None = None
    weight: float | None = None  # at which the card or LoRA Manager prefers the adapter


def read(adapter: Path) -> Hints:
    """Return the hints beside ``adapter``. The card's are preferred. Each state of the files is read once."""
    return _hints(adapter, changes(adapter))


def beside(adapter: Path) -> tuple[Path, ...]:
    """The names of all files that are read beside ``adapter``, whether there are such files or not."""
    return tuple(adapter.with_suffix(suffix) for suffix in (*ALL, *TEXTS, *PREVIEWS))


def changes(adapter: Path) -> tuple[int, ...]:
    """Return a value that differs once a sidecar has changed."""
    files = (adapter.with_suffix(suffix) for suffix in ALL)
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


def description(adapter: Path) -> str:
    """Return the text that the WebUI shows of an adapter whose card has no description; empty if there is none."""
    for path in filter(is_file, (adapter.with_suffix(suffix) for suffix in TEXTS)):
        try:
            with path.open("rb") as stream:
                return text(stream.read(MOST_TEXT).decode("utf-8-sig", "replace"))
        except OSError as error:
            log.warning("%s: cannot be read (%s).", path, error)
    return ""


@lru_cache(maxsize=4096)
def _hints(adapter: Path, changed: tuple[int, ...]) -> Hints:
    card, civitai, manager, matrix = (content(adapter.with_suffix(suffix)) or {} for suffix in ALL)
    words = (civitai.get("trainedWords"), *_managers_words(manager), matrix.get("TrainedWords"))
    bases = (text(base) for base in (civitai.get("baseModel"), manager.get("base_model"), matrix.get("BaseModel")))
    family = next((family for family in FAMILIES if card.get("sd version") in family.card_versions), None)
    weights = map(_weight, (card.get("preferred weight"), _tips(adapter, manager).get("strength")))
    return Hints(
        trigger_words=next(filter(None, (text(card.get("activation text")), *map(_listed, words))), ""),
        base=next((base for base in bases if base.lower() not in NO_BASE), ""),
        family=family,
        weight=next((weight for weight in weights if weight is not None), None),
    )


def _managers_words(manager: Mapping[str, Any]) -> tuple[object, object]:
    """Return the two places in which LoRA Manager keeps trigger words: its own, and those from Civitai."""
    civitai = manager.get("civitai")
    return manager.get("trainedWords"), civitai.get("trainedWords") if isinstance(civitai, dict) else None


def _tips(adapter: Path, manager: Mapping[str, Any]) -> dict[str, Any]:
    """Return LoRA Manager's tips, which are JSON in a text."""
    if not isinstance(tips := manager.get("usage_tips"), str) or not tips.strip():
        return {}
    try:
        return json_object(adapter.with_suffix(MANAGER), tips, "usage tips")
    except LoraxError as error:
        log.warning("Ignored: %s", error)
        return {}


def _weight(value: object) -> float | None:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 10 else 0.0
    return number or None  # the WebUI's 0 is none


def _listed(words: object) -> str:
    return text(", ".join(filter(None, map(text, words)))) if isinstance(words, list) else ""


def text(value: object) -> str:
    """Return a string that any page can show, at most ``LONGEST`` characters of it; empty if ``value`` is not a string."""
    return value[:LONGEST].strip().encode(errors="replace").decode() if isinstance(value, str) else ""
