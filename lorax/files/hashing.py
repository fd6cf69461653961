"""Hashes the content of files."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MEBIBYTE, LEGACY = 1 << 20, 1 << 16  # bytes; the latter are what the legacy hash is of
EVERY = 32  # mebibytes between two reports of progress


class Hashes(NamedTuple):
    """The sha256 of a file's content, and the WebUI's old 8-digit hash, by which some tools find files."""

    sha256: str
    legacy: str


def hashes(*paths: Path, read: Callable[[int], None] = lambda mebibytes: None) -> Hashes:
    """Compute both hashes in one pass.

    sha256 is that of the content of all files in order. The legacy hash is that of a single file. ``read`` is called now and then
    with the mebibytes so far, and may raise to stop.
    """
    content, legacy = hashlib.sha256(), legacy_of(b"")
    for number, chunk in enumerate(_mebibytes(paths)):
        if number % EVERY == 0:
            read(number)
        content.update(chunk)
        if number == 1:
            legacy = legacy_of(chunk)
    return Hashes(content.hexdigest(), legacy)


def legacy_hash(path: Path) -> str:
    """Compute the legacy hash alone, which is cheap enough for every base in a library."""
    with path.open("rb") as stream:
        stream.seek(MEBIBYTE)
        return legacy_of(stream.read(LEGACY))


def legacy_of(second_mebibyte: bytes) -> str:
    """Return the legacy hash: that of the first 64 KiB of the second mebibyte (A1111, ``sd_models.model_hash``)."""
    return hashlib.sha256(second_mebibyte[:LEGACY]).hexdigest()[:8]


def _mebibytes(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(MEBIBYTE):
                yield chunk
