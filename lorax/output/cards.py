"""What the WebUI, Civitai Helper, LoRA Manager and Stability Matrix keep beside an adapter, rewritten for a written one."""

import datetime
import html
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.checkpoint import Checkpoint, Family
from lorax.files import is_file
from lorax.formats import sidecars, trigger_words
from lorax.output.base_name import civitai_name
from lorax.output.metadata import told
from lorax.transfer import Plan

Content = dict[str, Any]
TRIGGER, WEIGHT = "activation text", "preferred weight"  # the WebUI's keys
NOTE = "lorax"  # our key: the note in the description, by which a card that a transfer wrote is known
WEIGHT_NOTE = "The preferred weight is the original's, found on "  # begins the line of a description that says so
# What Civitai's information says of the adapter on any base. The rest is about one file: hashes, downloads, examples, base.
CIVITAI_KEYS = ("modelId", "model", "name", "trainedWords", "description")
# Civitai Helper replaces files that name no version of it, or an old one. This is the version whose form ours has.
HELPER = {"sd_civitai_helper": {"version": "1.8.13", "skeleton_file": False}}
# What LoRA Manager keeps of an adapter on any base, and of which type, since it leaves out a model if one has another.
MANAGER_KEYS: Mapping[str, type] = {
    "model_name": str,
    "tags": list,
    "modelDescription": str,
    "preview_nsfw_level": int,
    "favorite": bool,
    "notes": str,
    "usage_tips": str,
    "trainedWords": list,
    "from_civitai": bool,
}
# What Stability Matrix keeps of it. A version's number is left out: it would stand for the original's file.
MATRIX_KEYS = (
    *("ModelId", "ModelName", "ModelDescription", "ModelType", "Nsfw", "Tags", "AuthorUsername", "VersionName"),
    *("VersionDescription", "TrainedWords", "UserTitle", "Source", "SourceUrl"),
)


@dataclass(frozen=True)
class About:
    """What is true of the written adapter at ``file``."""

    file: Path
    size: int  # bytes
    family: Family
    base: str  # Civitai's name of its base's kind
    note: str
    found_on: str  # title of the base on which the original's weight was found
    trigger_words: str
    weight: float | None  # of the original
    description: str  # of the original, if its card has none
    preview: str  # suffix of a preview beside it; empty if there is none

    @classmethod
    def of(cls, plan: Plan, base: Checkpoint, note: str, file: Path, size: int) -> "About":
        original = plan.adapter.path
        there = (suffix for suffix in sidecars.PREVIEWS for one in (file, original) if is_file(one.with_suffix(suffix)))
        return cls(
            file=file,
            size=size,
            family=base.family,
            base=civitai_name(base),
            note=told(note, plan.adapter.sha256),
            found_on=plan.source.title,
            trigger_words=trigger_words(plan.adapter),
            weight=sidecars.read(original).weight,
            description=sidecars.description(original),
            preview=next(there, ""),
        )

    @property
    def html(self) -> str:
        """The note for a description that is HTML."""
        return html.escape(self.note, quote=False)


def _card(found: Content, about: About) -> Content:
    known = {TRIGGER: about.trigger_words, WEIGHT: about.weight}
    kept = {key: value for key, value in known.items() if value} | found  # also where the user has chosen to have none
    described = found.get("description") or about.description
    marked = _weight_note(described, about) if kept.get(WEIGHT) else ""
    return kept | {"description": _lines(described, about.note, marked)} | _told(about)


def card_again(found: Content, about: About) -> Content | None:
    """Return the card with the new note, if an earlier transfer to this file wrote it; None for anyone else's card."""
    if not isinstance(before := found.get(NOTE), str) or not before:
        return None
    described = str(found.get("description") or "")
    replaced = described.replace(before, about.note) if before in described else _lines(described, about.note)
    return found | {"description": replaced} | _told(about)


def _told(about: About) -> Content:
    return {"sd version": about.family.card_versions[0], NOTE: about.note}


def _civitai(found: Content, about: About) -> Content:
    extensions = found.get("extensions")
    return _only(found, CIVITAI_KEYS) | {
        "baseModel": about.base,
        "description": _lines(found.get("description"), about.html),
        "files": [{"name": about.file.name, "type": "Model", "primary": True, "sizeKB": about.size / 1024, "hashes": {}}],
        "images": [],
        "extensions": (extensions if isinstance(extensions, dict) else {}) | HELPER,
    }


def _manager(found: Content, about: About) -> Content:
    file, civitai = about.file.absolute(), found.get("civitai")
    kept = {key: found[key] for key, kind in MANAGER_KEYS.items() if type(found.get(key)) is kind}
    tips = "strength" in kept.get("usage_tips", "")
    return (
        {"model_name": file.stem, "from_civitai": False}
        | kept
        | {
            "file_name": file.stem,
            "file_path": file.as_posix(),
            "size": about.size,
            "modified": time.time(),
            "sha256": "",  # is computed when the file is listed
            "base_model": about.base,
            "preview_url": file.with_suffix(about.preview).as_posix() if about.preview else "",
            "notes": _lines(kept.get("notes"), about.note, _weight_note(kept.get("notes"), about) if tips else ""),
            "civitai": _civitai(civitai, about) if isinstance(civitai, dict) and civitai else {},
            "skip_metadata_refresh": True,  # which would look for the file on Civitai, where it is not
        }
    )


def _matrix(found: Content, about: About) -> Content:
    return _only(found, MATRIX_KEYS) | {
        "VersionDescription": _lines(found.get("VersionDescription"), about.html),
        "BaseModel": about.base,
        "ImportedAt": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "Hashes": {},
    }


Maker = Callable[[Content, About], Content | None]
MAKERS: Mapping[str, Callable[[Content, About], Content]] = {
    sidecars.CARD: _card,
    sidecars.CIVITAI: _civitai,
    sidecars.MANAGER: _manager,
    sidecars.MATRIX: _matrix,
}


def _only(found: Content, keys: Iterable[str]) -> Content:
    return {key: found[key] for key in keys if key in found}


def _lines(*texts: object) -> str:
    return "\n".join(str(text) for text in texts if text)


def _weight_note(described: object, about: About) -> str:
    """Return a line on the preferred weight, unless the text has one already: that of an original's original."""
    return "" if WEIGHT_NOTE in str(described) else f"{WEIGHT_NOTE}{about.found_on}."


def without_weight_note(described: str) -> str:
    """Return the description without the line on the original's weight."""
    return "\n".join(line for line in described.split("\n") if not line.startswith(WEIGHT_NOTE))


def encoded(content: Content) -> bytes:
    """Return JSON without escapes, unless a text holds half a surrogate pair, which UTF-8 cannot encode."""
    try:
        return json.dumps(content, indent=4, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=4).encode()
