"""Pickles of calls and of references to values, as torch reads them, that no tensor need stand behind."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch


class Call:
    """Pickled, it is a call of a function; if ``state`` is given, that is set as what the result holds."""

    def __init__(self, function: Callable[..., object], *arguments: object, state: object = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Storage:
    """Pickled, it is a reference to so many values, by a key."""

    def __init__(self, count: int = 1, key: str = "0") -> None:
        self.named = ("storage", torch.FloatStorage, key, "cpu", count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, found: object) -> object:
        return found.named if isinstance(found, Storage) else None


def dumped(found: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(found)
    return stream.getvalue()
