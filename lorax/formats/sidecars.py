"""The files that people have beside an adapter: previews, the WebUI's card, Civitai Helper's information.

They are read for hints and carried over to what is written. One that is damaged, or another tool's of the same name, is ignored
with a line in the log.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax.checkpoint.families import FAMILIES, Family
from lorax.files.staging import Staging

CARD, CIVITAI = ".json", ".civitai.info"
PREVIEWS = (".png", ".jpg", ".jpeg", ".webp", ".gif")
PREVIEW_STEMS = ("", ".preview")
# Of Civitai's information, what is true of the adapter on any base. The rest is of one file: hashes, downloads, examples, base.
CIVITAI_KEPT = ("modelId", "model", "name", "trainedWords", "description")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hints:
    """What the sidecars say. ``base``: in Civitai's words, as ``SD 1.5``; ``family``: from the card."""

    trigger_words: str = ""
    base: str = ""
    family: Family | None = None


def read(adapter: Path) -> Hints:
    """The card's trigger words come before Civitai's. Read once for each state of the files."""
    return _hints(adapter, changes(adapter))


def changes(adapter: Path) -> tuple[int, ...]:
    """Differs once a sidecar was changed."""
    files = (adapter.with_suffix(suffix) for suffix in (CARD, CIVITAI))
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def carry(source: Path, output: Path, staging: Staging, family: Family, note: str) -> list[Path]:
    """Stage previews, card and Civitai's information of the source beside ``output``. Files that exist are left alone.

    ``note`` is added to the descriptions, and ``family`` becomes the card's version.
    """
    written = []
    for stem in PREVIEW_STEMS:
        for suffix in PREVIEWS:
            image, copy = source.with_suffix(stem + suffix), output.with_suffix(stem + suffix)
            if image.is_file() and staging.is_free(copy):
                shutil.copyfile(image, staging.add(copy))
                written.append(copy)
    for suffix in (CARD, CIVITAI):
        copy = output.with_suffix(suffix)
        if staging.is_free(copy) and (content := _read(source.with_suffix(suffix))) is not None:
            if suffix == CARD:
                content["sd version"] = family.card_version
            else:
                content = {key: content[key] for key in CIVITAI_KEPT if key in content}
            content["description"] = "\n".join(filter(None, [str(content.get("description") or ""), note]))
            staging.add(copy).write_bytes(_encoded(content))
            written.append(copy)
    return written


@lru_cache(maxsize=4096)
def _hints(adapter: Path, changed: tuple[int, ...]) -> Hints:
    card, civitai = (_read(adapter.with_suffix(suffix)) or {} for suffix in (CARD, CIVITAI))
    words = civitai.get("trainedWords")
    listed = ", ".join(filter(None, map(_text, words))) if isinstance(words, list) else ""
    family = next((family for family in FAMILIES if family.card_version == card.get("sd version")), None)
    return Hints(_text(card.get("activation text")) or listed, _text(civitai.get("baseModel")), family)


def _read(path: Path) -> dict[str, Any] | None:
    """None if it is absent, or no JSON object."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: ignored, since it cannot be read (%s).", path, error)
        return None
    if not isinstance(content, dict):
        log.warning("%s: ignored, since it is not a card; expected a JSON object.", path)
        return None
    return content


def _text(value: object) -> str:
    """A string that any page can show; anything else than a string says nothing."""
    return value.strip().encode(errors="replace").decode() if isinstance(value, str) else ""


def _encoded(content: dict[str, Any]) -> bytes:
    """Readable in every language, unless a text holds half a character, which UTF-8 has no place for."""
    try:
        return json.dumps(content, indent=4, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=4).encode()
