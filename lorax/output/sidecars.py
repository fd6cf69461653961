"""Copies the files beside an adapter to the new one: previews, the WebUI's card, Civitai Helper's information."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from lorax.checkpoint import Family
from lorax.files import Staging
from lorax.formats import sidecars

# What Civitai's information says of the adapter on any base. The rest is about one file: hashes, downloads, examples, base.
CIVITAI_KEYS = ("modelId", "model", "name", "trainedWords", "description")


def carry(source: Path, output: Path, staging: Staging, family: Family, note: str) -> list[Path]:
    """Stage the previews, the card and Civitai's information of ``source`` beside ``output``; return the files to be written.

    Existing files are not replaced. ``note`` is added to the descriptions, and ``family`` becomes the card's version.
    """
    written = []
    for suffix in sidecars.PREVIEWS:
        image, copy = source.with_suffix(suffix), output.with_suffix(suffix)
        if image.is_file() and staging.is_free(copy):
            staging.write(copy, partial(shutil.copyfile, image))
            written.append(copy)
    for suffix in (sidecars.CARD, sidecars.CIVITAI):
        copy = output.with_suffix(suffix)
        if staging.is_free(copy) and (found := sidecars.content(source.with_suffix(suffix))) is not None:
            if suffix == sidecars.CARD:
                found["sd version"] = family.card_version
            else:
                found = {key: found[key] for key in CIVITAI_KEYS if key in found}
            found["description"] = "\n".join(filter(None, [str(found.get("description") or ""), note]))
            staging.write(copy, partial(Path.write_bytes, data=_encoded(found)))
            written.append(copy)
    return written


def _encoded(content: dict[str, Any]) -> bytes:
    """Return JSON without escapes, unless a text holds half a surrogate pair, which UTF-8 cannot encode."""
    try:
        return json.dumps(content, indent=4, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=4).encode()
