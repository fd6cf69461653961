"""Turns what is typed on the command line into paths, numbers and captions, or refuses it in a sentence."""

import os
import re
from contextlib import suppress
from pathlib import Path

from lorax.errors import LoraxError, reading
from lorax.options import texts

MOST_GIGABYTES, MOST_CAPTIONS = 1_000_000, 8 << 20  # of a cache; characters of a file of captions


def to_path(text: str) -> Path:
    """Return a path that can be looked up. Raises LoraxError if it holds NUL or is a link to itself."""
    path = Path(text)
    with reading(path, "a path", "Check the path."):
        path.resolve()  # RuntimeError, or from Python 3.13 on no error, where links lead to themselves
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    return path


def to_gigabytes(text: str) -> float:
    """Return a size that a disk may have. Raises LoraxError for others, such as nan."""
    with suppress(ValueError):
        if 0 <= (size := float(text)) <= MOST_GIGABYTES:
            return size
    raise LoraxError(f"--cache-size {text}: expected a number of gigabytes from 0 to {MOST_GIGABYTES}.")


def to_whole_number(text: str) -> int:
    """Return a whole number of up to 20 digits. Raises LoraxError, which quotes at most 40 characters, for anything else."""
    if not re.fullmatch(r"\s*[+-]?[0-9_]{1,20}\s*", text):
        raise LoraxError(f"{text[:40]!r}: expected a whole number.")
    return int(text)


def to_user_and_password(text: str) -> str:
    """Return what ``--auth`` is given. Raises LoraxError if it is not a user's name, a colon and a password."""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise LoraxError("--auth: expected a user name and a password with a colon between them.")
    return text


def to_output(text: str) -> Path:
    """Return a path to write to. Raises LoraxError if a slash at the end, which ``Path`` drops, asks for a missing folder."""
    path = to_path(text)
    if text.endswith(("/", os.sep)) and not path.is_dir():
        raise LoraxError(f"{text}: no such folder. Create it, or leave the slash at the end out if a file is meant.")
    return path


def to_captions(text: str) -> tuple[str, ...]:
    """Read a file with a caption a line. Raises LoraxError if it cannot be read as text or holds no caption."""
    file = to_path(text)
    with reading(file, "captions", "Expected a text file with a caption a line."), file.open(encoding="utf-8") as stream:
        content = stream.read(MOST_CAPTIONS + 1)
    if len(content) > MOST_CAPTIONS:
        raise LoraxError(f"{file}: larger than {MOST_CAPTIONS >> 20} MB. Expected a text file with a caption a line.")
    lines = content.splitlines()
    if not (found := texts(lines)):
        raise LoraxError(f"{file}: holds no caption. Expected a text file with a caption a line.")
    return found
