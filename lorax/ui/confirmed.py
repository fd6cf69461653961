"""Remembers the sources that users have confirmed, so that nobody is asked twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from lorax.files import Cache, Entry, stamp


class Confirmed:
    """The sources of LoRAs whose files name none, by the state of the file: in memory, and in the host's cache."""

    def __init__(self, cache: Callable[[], Cache | None]) -> None:
        self._cache, self._known = cache, dict[str, str]()

    def of(self, adapter: Path) -> str | None:
        """Return the name of the base that was confirmed last; None if none was."""
        key = _key(adapter)
        if key and key not in self._known and (cache := self._cache()) and (entry := cache.get(key, remember=False)):
            self._known[key] = entry.notes.get("source", "")
        return self._known.get(key)

    def keep(self, adapter: Path, source: str) -> None:
        """Remember the base of this name."""
        if not (key := _key(adapter)) or self._known.get(key) == source:
            return
        self._known[key] = source
        if cache := self._cache():
            cache.put(key, Entry({}, {"source": source}), remember=False)


def _key(adapter: Path) -> str:
    """Return what is another one for each state of a file; empty for a folder, in which a change cannot be seen."""
    if not adapter.is_file():
        return ""
    return hashlib.sha256(json.dumps(["confirmed source", stamp(adapter)]).encode()).hexdigest()
