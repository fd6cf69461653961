"""Turns what is typed on the command line into options, paths, numbers and captions, or refuses it in a sentence."""

import argparse
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from lorax.errors import LoraxError, reading
from lorax.files import Cache
from lorax.options import Batching, Options, Running, Saving, declared, texts

Declaration = TypeVar("Declaration", Options, Running, Saving, Batching)
SOURCE = "the base that the adapters were trained on"
MOST_GIGABYTES, MOST_CAPTIONS = 1_000_000, 8 << 20  # of a cache; characters of a file of captions


def add_moving(commands: Any) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add the commands transfer and analyze, which have most arguments in common; return their parsers."""
    moving = argparse.ArgumentParser(add_help=False)
    moving.add_argument("loras", type=to_path, nargs="+", metavar="LORA", help="an adapter: a .safetensors file or a PEFT folder")
    add_options(moving, Options)
    add_options(moving, Running)
    add_cache(moving)
    moving.add_argument("--json", action="store_true", help="print the report as JSON; of several adapters, a list of reports")
    moving.add_argument("--report", type=to_output, metavar="FILE.json", help="also write the JSON there")

    transfer = commands.add_parser(
        "transfer",
        parents=[moving],
        help="move adapters, in one pass over the bases, and write them",
        description="Move adapters and write them: all of them, or none. With several targets, --models or --skip-existing, each "
        "adapter ends by itself, what is finished stays, and a table tells what became of each.",
    )
    origin = transfer.add_mutually_exclusive_group(required=True)
    origin.add_argument("--source", type=to_path, metavar="BASE", help=SOURCE)
    origin.add_argument(
        "--models", type=to_path, metavar="DIR", help="in place of --source: has the bases that the adapters' metadata names"
    )
    help = "the base to move them to; may be given again"
    transfer.add_argument("--target", type=to_path, action="append", required=True, metavar="BASE", help=help)
    transfer.add_argument(
        "--output",
        type=to_output,
        metavar="FILE_OR_DIR",
        help="default: <adapter>-<target>.safetensors beside the adapter; <adapter>-lorax.safetensors for a LoRA-X file, "
        "<adapter>-<target>-lorax.safetensors after bridge or refine. For several adapters, a folder",
    )
    add_options(transfer, Saving)
    add_options(transfer, Batching)

    analyze = commands.add_parser("analyze", parents=[moving], help="show what a transfer would do; write no adapter")
    analyze.add_argument("--source", type=to_path, required=True, metavar="BASE", help=SOURCE)
    analyze.add_argument("--target", type=to_path, required=True, metavar="BASE", help="the base to move them to")
    return transfer, analyze


def add_library(commands: Any, filters: Mapping[str, str], sorts: Iterable[str]) -> argparse.ArgumentParser:
    """Add the command library, and return its parser."""
    library = commands.add_parser(
        "library",
        help="say of each adapter in a folder what it is worth on a base, and which were moved to it",
        description="Say of each adapter in a folder what it is worth on a base, by the headers of the files. To look at two "
        "bases takes a while at first; with --cache, what is found is kept.",
    )
    library.add_argument("--models", type=to_path, required=True, metavar="DIR", help="checkpoints and LoRAs, at any depth")
    library.add_argument("--target", type=to_path, required=True, metavar="BASE", help="the base to use them on")
    shown = "; ".join(f"{name}: {title}" for name, title in filters.items())
    library.add_argument("--only", choices=list(filters), default="", help=f"show these only ({shown})")
    library.add_argument("--search", default="", metavar="WORDS", help="show those only that have all of these words")
    library.add_argument("--sort", choices=list(sorts), default="verdict", help="(default: %(default)s)")
    library.add_argument("--closely", action="store_true", help="read a sample of each adapter's layers, too, for seconds each")
    library.add_argument("--json", action="store_true")
    add_cache(library)
    return library


def add_options(parser: argparse.ArgumentParser, declaration: type) -> None:
    """Add an argument for each option of a declaration."""
    for option in declared(declaration):
        if option.kind is bool:
            parser.add_argument(option.flag, action="store_true", help=option.help)
            continue
        default = "" if option.default in (None, "", ()) else " (default: %(default)s)"
        parser.add_argument(
            option.flag,
            type=to_captions if option.lines else to_whole_number if option.kind is int else option.kind,
            choices=option.choices,
            default=option.default,
            metavar=option.example,
            help=option.described.replace("%", "%%") + default,
        )


def chosen(options: argparse.Namespace, declaration: type[Declaration]) -> Declaration:
    """Return the typed values of a declaration."""
    return declaration(**{field.name: getattr(options, field.name) for field in dataclasses.fields(declaration)})


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cache_of``."""
    parser.add_argument(
        "--cache", type=to_path, metavar="DIR", help="keep what is found of the bases there, and what refine goes on from"
    )
    parser.add_argument("--cache-size", type=to_gigabytes, default=8, metavar="GB", help="of --cache (default: %(default)s)")


def cache_of(options: argparse.Namespace) -> Cache | None:
    """Return the cache that is asked for, or None."""
    return Cache(options.cache, int(options.cache_size * 1e9), 0) if options.cache else None


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


class Captions(tuple[str, ...]):
    """Captions, and the ``file`` that they were read from."""

    file: Path


def to_captions(text: str) -> Captions:
    """Read a file with a caption a line. Raises LoraxError if it cannot be read as text or holds no caption."""
    file = to_path(text)
    with reading(file, "captions", "Expected a text file with a caption a line."), file.open(encoding="utf-8-sig") as stream:
        content = stream.read(MOST_CAPTIONS + 1)
    if len(content) > MOST_CAPTIONS:
        raise LoraxError(f"{file}: larger than {MOST_CAPTIONS >> 20} MB. Expected a text file with a caption a line.")
    lines = content.splitlines()
    if not (found := texts(lines)):
        raise LoraxError(f"{file}: holds no caption. Expected a text file with a caption a line.")
    captions = Captions(found)
    captions.file = file
    return captions
