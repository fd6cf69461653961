"""Keeps moved layers on the disk, so that memory holds one at a time, however many adapters are moved."""

import math
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import torch

from lorax.errors import LoraxError
from lorax.low_rank import LowRank

SMALL = 16 << 20  # bytes of all adapters of a pass that are kept in memory, so that small ones need no file
FILES = 64  # of a pass: some systems let a process open no more than 256
HALVES = (torch.float16, torch.bfloat16)
DISK = "/var/tmp"  # where a system has it, on a disk; /tmp is often a part of the memory


class Spool:
    """A file without a name, for deltas from several threads. It is gone with the last of them, and whenever the process ends.

    The first ``small`` bytes need no file.
    """

    def __init__(self, small: int = SMALL) -> None:
        self._folder, self._lock = _folder(), threading.Lock()
        self._file = tempfile.SpooledTemporaryFile(small, dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, _close, self._file)

    @classmethod
    def of_each(cls, adapters: int) -> "list[Spool]":
        """Return a spool for each adapter of a pass, so that each can go by itself. If there are many, neighbours share one."""
        files = min(adapters, FILES)
        spools = [cls(max(1, SMALL // files)) for _ in range(files)]
        return [spools[number * files // adapters] for number in range(adapters)]

    def keep(self, delta: LowRank) -> "Kept":
        """Append a delta. Raises LoraxError if the disk is full."""
        return Kept(self._append(delta.up), self._append(delta.down), delta.scale)

    def read(self, start: int, size: int) -> bytearray:
        """Return bytes that were appended. Raises LoraxError if they cannot be read."""
        with self._lock, self._failing():
            self._file.seek(start)
            return bytearray(self._file.read(size))

    def _append(self, values: torch.Tensor) -> "_Stretch":
        stored = _narrowest(values.cpu()).contiguous()
        with self._lock, self._failing():
            self._file.seek(0, os.SEEK_END)
            start = self._file.tell()
            self._file.write(stored.view(-1).view(torch.uint8).numpy().data)
            self._file.flush()
        return _Stretch(self, start, stored.dtype, tuple(stored.shape))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise LoraxError(
                f"{self._folder}: cannot hold what is moved until it is written ({reason}). Nothing was changed. "
                "Free some space there, or name a folder on another disk by the environment variable TMPDIR."
            ) from error


@dataclass(frozen=True)
class _Stretch:
    """A tensor in a spool."""

    spool: Spool
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return torch.finfo(self.dtype).bits // 8 * math.prod(self.shape)

    def get(self) -> torch.Tensor:
        if not self.size:
            return torch.zeros(self.shape)
        return torch.frombuffer(self.spool.read(self.start, self.size), dtype=self.dtype).view(self.shape).float()


@dataclass(frozen=True)
class Kept:
    """A delta in a spool."""

    up: _Stretch
    down: _Stretch
    scale: float

    @property
    def size(self) -> int:
        """Bytes in the spool."""
        return self.up.size + self.down.size

    @property
    def outline(self) -> LowRank:
        """The delta without its values, on torch's device ``meta``."""
        up, down = (torch.empty(factor.shape, device="meta") for factor in (self.up, self.down))
        return LowRank(up, down, self.scale)

    def get(self) -> LowRank:
        """Read the delta."""
        return LowRank(self.up.get(), self.down.get(), self.scale)

    def times(self, factor: float) -> "Kept":
        return replace(self, scale=factor * self.scale)


class Layers(Mapping[str, LowRank]):
    """Deltas by layer, each of which is read from a spool whenever it is asked for."""

    def __init__(self, kept: Mapping[str, Kept] | None = None) -> None:
        self._kept = dict(kept or {})

    @classmethod
    def of(cls, deltas: Iterable[tuple[str, LowRank]]) -> "Layers":
        """Keep deltas in a spool of their own, one after the other."""
        spool = Spool()
        return cls({layer: spool.keep(delta) for layer, delta in deltas})

    def __getitem__(self, layer: str) -> LowRank:
        return self._kept[layer].get()

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes in spools."""
        return sum(kept.size for kept in self._kept.values())

    @property
    def outlines(self) -> dict[str, LowRank]:
        """The deltas without their values; nothing is read."""
        return {layer: kept.outline for layer, kept in self._kept.items()}


def _narrowest(values: torch.Tensor) -> torch.Tensor:
    """Return the values in half precision if that holds them exactly, as it does in a copy of what was stored so."""
    for dtype in HALVES:
        if torch.equal(values[:1].to(dtype).float(), values[:1]) and torch.equal((half := values.to(dtype)).float(), values):
            return half
    return values


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, which was told before
        file.close()


def _folder() -> str:
    """Return the folder for large temporaries: what the user has set for such, else one that is on a disk."""
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return DISK if not chosen and Path(DISK).is_dir() and os.access(DISK, os.W_OK) else tempfile.gettempdir()
