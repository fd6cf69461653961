"""The origin of one adapter, as tests ask for it; those of many are found together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lorax.catalog import ListedFile, Origin, Origins, record


def origin(adapter: Path, bases: Iterable[ListedFile]) -> Origin:
    return Origins(bases).of(record(adapter))


def named(adapter: Path, bases: Iterable[ListedFile]) -> ListedFile | None:
    return Origins(bases).named(record(adapter))
