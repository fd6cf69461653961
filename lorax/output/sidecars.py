"""Copies the files beside an adapter to the new one: previews, the WebUI's card, Civitai Helper's information."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

from lorax.checkpoint import Family
from lorax.errors import LoraxError, reading
from lorax.files import Staging, is_file
from lorax.formats import sidecars

# What Civitai's information says of the adapter on any base. The rest is about one file: hashes, downloads, examples, base.
CIVITAI_KEYS = ("modelId", "model", "name", "trainedWords", "description")
LARGEST_PREVIEW = 64 << 20  # bytes
log = logging.getLogger(__name__)


def carry(source: Path, output: Path, staging: Staging, family: Family, note: str) -> list[Path]:
    """Stage the previews, the card and Civitai's information of ``source`` beside ``output``; return the files to be written.

    Existing files are not replaced. ``note`` is added to the descriptions, and ``family`` becomes the card's version.
    """
    written = []
    for suffix in sidecars.PREVIEWS:
        image, copy = source.with_suffix(suffix), output.with_suffix(suffix)
        if is_file(image) and staging.is_free(copy) and (content := _picture(image)) is not None:
            staging.write(copy, partial(Path.write_bytes, data=content))
            written.append(copy)
    for suffix in (sidecars.CARD, sidecars.CIVITAI):
        copy = output.with_suffix(suffix)
        if staging.is_free(copy) and (found := sidecars.content(source.with_suffix(suffix))) is not None:
            if suffix == sidecars.CARD:
                found["sd version"] = family.card_version
            else:
                found = {key: found[key] for key in CIVITAI_KEYS if key in found}
            if (encoded := _described(found, note, source.with_suffix(suffix))) is not None:
                staging.write(copy, partial(Path.write_bytes, data=encoded))
                written.append(copy)
    return written


def _picture(image: Path) -> bytes | None:
    """Return the content of a preview; None, with a line in the log, if it cannot be read: the adapter is moved without it."""
    try:
        with image.open("rb") as stream:
            content = stream.read(LARGEST_PREVIEW + 1)
    except (OSError, MemoryError) as error:
        log.warning("%s: left out, since it cannot be read (%s).", image, error)
        return None
    if len(content) > LARGEST_PREVIEW:
        log.warning("%s: left out, since it is larger than %d MB.", image, LARGEST_PREVIEW >> 20)
        return None
    return content


def _described(card: dict[str, Any], note: str, path: Path) -> bytes | None:
    """Return the card with ``note`` in its description; None, with a line in the log, if it is nested too deep to be written."""
    try:
        with reading(path, "a card"):
            card["description"] = "\n".join(filter(None, [str(card.get("description") or ""), note]))
            return encoded(card)
    except LoraxError as error:
        log.warning("Left out: %s", error)
        return None


def encoded(content: dict[str, Any]) -> bytes:
    """Return JSON without escapes, unless a text holds half a surrogate pair, which UTF-8 cannot encode."""
    try:
        return json.dumps(content, indent=4, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=4).encode()
