"""Finds files in a folder, and names that any page can show."""

import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from lorax.files.texts import is_file

log = logging.getLogger(__name__)


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the files with one of these suffixes, in lower case, at any depth. Links are followed, each folder once.

    A folder that cannot be read is left out, with a line in the log.
    """

    def warn(error: OSError) -> None:
        log.warning("%s: left out, since it cannot be read (%s).", error.filename, error)

    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=warn, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in suffixes and is_file(path):
                yield path


def as_utf8(text: str) -> str:
    """Return a text that UTF-8 can hold: what was no text in a file's name becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
