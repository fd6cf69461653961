"""Carries over the files beside an adapter: previews, descriptions and cards."""

import logging
from functools import partial
from pathlib import Path

from lorax.errors import LoraxError, reading
from lorax.files import Staging, is_file
from lorax.formats import sidecars
from lorax.output.cards import MAKERS, About, Maker, card_again, encoded

LARGEST_PREVIEW = 64 << 20  # bytes
log = logging.getLogger(__name__)


def carry(source: Path, output: Path, staging: Staging, about: About) -> list[Path]:
    """Stage what lies beside ``source`` for the written adapter ``output``, which is staged already; return the files.

    Existing files are not replaced, but for the card of an earlier transfer. The card is made if there is none, since it tells
    where the adapter is from.
    """
    written = []

    def write(suffix: str, data: bytes | None, overwrite: bool = False) -> None:
        if data is not None:
            staging.write(output.with_suffix(suffix), partial(Path.write_bytes, data=data), overwrite)
            written.append(output.with_suffix(suffix))

    for suffix in (*sidecars.PREVIEWS, *sidecars.TEXTS):
        if is_file(source.with_suffix(suffix)) and staging.is_free(output.with_suffix(suffix)):
            write(suffix, _copied(source.with_suffix(suffix)))
    for suffix in sidecars.ALL:
        if staging.is_free(output.with_suffix(suffix)):
            write(suffix, _described(source, output, suffix, about))
        elif suffix == sidecars.CARD and not staging.is_added(output.with_suffix(suffix)):
            write(suffix, _again(output.with_suffix(suffix), about), overwrite=True)
    return written


def _copied(file: Path) -> bytes | None:
    """Return the content of a file; None, with a line in the log, if it cannot be read: the adapter is moved without it."""
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_PREVIEW + 1)
    except (OSError, MemoryError) as error:
        log.warning("%s: left out, since it cannot be read (%s).", file, error)
        return None
    if len(content) > LARGEST_PREVIEW:
        log.warning("%s: left out, since it is larger than %d MB.", file, LARGEST_PREVIEW >> 20)
        return None
    return content


def _again(card: Path, about: About) -> bytes | None:
    """Return the card of an earlier transfer with the note on this one; None if it is another card."""
    return _made(card, card_again, about)


def _described(source: Path, output: Path, suffix: str, about: About) -> bytes | None:
    """Return the file with this suffix for the written adapter; None if there is none beside ``source``, and none is needed.

    LoRA Manager makes a file of its own for each adapter that has none. It takes the name of the base from the metadata then,
    which have only the trainers' name for its family.
    """
    if (made := _made(source.with_suffix(suffix), MAKERS[suffix], about)) is not None:
        return made
    is_needed = suffix == sidecars.CARD or (suffix == sidecars.MANAGER and any(output.parent.glob(f"*{suffix}")))
    return encoded(MAKERS[suffix]({}, about)) if is_needed else None


def _made(path: Path, make: Maker, about: About) -> bytes | None:
    """Return what is made of the file; None if there is nothing to make it of, or if it is nested too deep to be written."""
    if (found := sidecars.content(path)) is None:
        return None
    try:
        with reading(path, "a card"):
            made = make(found, about)
            return None if made is None else encoded(made)
    except LoraxError as error:
        log.warning("Left out: %s", error)
        return None
