"""What the content of files hashes to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

TOLD = 32  # mebibytes, after which a reader is told: some tens of milliseconds


class Hashes(NamedTuple):
    """Of a file: the sha256 of its content, and the WebUI's old 8-digit hash, which some tools still match by."""

    sha256: str
    legacy: str


def hashes(*paths: Path, skip: int = 0, read: Callable[[int], None] = lambda mebibytes: None) -> Hashes:
    """Both hashes from one reading. sha256 is over the content of all files in order, without the first ``skip`` bytes.

    The legacy hash means something for a single file only, whatever is skipped. ``read`` hears now and then how many mebibytes
    were read, and may raise to stop.
    """
    content, legacy = hashlib.sha256(), _legacy(b"")
    for number, chunk in enumerate(_mebibytes(paths)):
        if number % TOLD == 0:
            read(number)
        content.update(chunk[skip:])
        skip = max(0, skip - len(chunk))
        if number == 1:
            legacy = _legacy(chunk)
    return Hashes(content.hexdigest(), legacy)


def legacy_hash(path: Path) -> str:
    """The legacy hash alone: cheap enough to ask of every base."""
    with path.open("rb") as stream:
        stream.seek(1 << 20)
        return _legacy(stream.read(0x10000))


def _legacy(second_mebibyte: bytes) -> str:
    """Of its first 64 KiB (A1111, ``sd_models.model_hash``)."""
    return hashlib.sha256(second_mebibyte[:0x10000]).hexdigest()[:8]


def _mebibytes(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                yield chunk
