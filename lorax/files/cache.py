"""A cache of results, in memory and on disk, with limits.

Several processes may share a folder. An entry is one file, which appears whole or not at all and may vanish at any time. An entry
that cannot be read, that is not what was written under its key, or that holds NaN or infinite values counts as absent; one that
cannot be written is kept in memory only.
"""

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save

from lorax.errors import is_expected
from lorax.files.tensors import is_finite

log = logging.getLogger(__name__)

SUFFIX = ".lorax-fit"  # ends the name of an entry, a safetensors file; no other file is ever removed from the folder
FORMAT, BYTE = "lorax.entry", "lorax.byte"  # in the header; a tensor of a byte, without which safetensors 0.4.2 reads no file
ABANDONED = 3600.0  # seconds after which a temporary file was left behind by a crash


class Entry(NamedTuple):
    """A result: named tensors, and named strings in ``notes``."""

    tensors: dict[str, torch.Tensor]
    notes: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class Cache:
    """Entries by key; the least recently used ones are removed first. Limits are in bytes; 0 switches disk or memory off."""

    def __init__(self, folder: Path | None, disk_limit: int, memory_limit: int) -> None:
        self.folder, self.disk_limit, self.memory_limit = folder, disk_limit, memory_limit
        self._memory: OrderedDict[str, Entry] = OrderedDict()
        # How often entries came into the folder or went, by the last word of their keys; how often it was another folder.
        self._changes, self._folders = Counter[str](), 0
        self._has_warned = False  # about an entry that is too large
        self._lock = threading.Lock()  # the user may clear the cache during a job

    @property
    def is_on_disk(self) -> bool:
        return self.folder is not None and self.disk_limit > 0

    def get(self, key: str, remember: bool = True) -> Entry | None:
        """Return the entry, or None. ``remember``: whether to hold it in memory from now on."""
        with self._lock:
            entry = self._memory.get(key) or self._read(key)
            if entry is not None and remember:
                self._remember(key, entry)
            return entry

    def has(self, key: str) -> bool:
        """Tell whether there is an entry, without reading it."""
        with self._lock:
            return key in self._memory or (self.folder is not None and (self.folder / (key + SUFFIX)).is_file())

    def changes(self, word: str) -> int:
        """Return a number that differs once this process has put or removed an entry whose key ends in ``-word``."""
        return self._changes[word] + self._folders

    def has_room(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Tell whether the disk may hold an entry of such tensors, and warn if not: to copy them off a card takes a while."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.folder is not None and size > self.disk_limit > 0:
            with self._lock:
                self._warn(size)
            return False
        return True

    def put(self, key: str, entry: Entry, remember: bool = True) -> None:
        """Store an entry on the disk and, with ``remember``, in memory."""
        with self._lock:
            if remember:
                self._remember(key, entry)
            if self.folder is None or self.disk_limit == 0:
                return
            if entry.size > self.disk_limit:
                self._warn(entry.size)
                return
            path = self.folder / (key + SUFFIX)
            is_new = not path.is_file()
            try:
                self._write(path, key, entry)
            except Exception as error:
                if not is_expected(error):
                    raise
                return  # what cannot be written costs time later, and nothing now
            self._changes[_last_word(key)] += is_new
            self._trim(self.folder, self.disk_limit)

    def change(self, folder: Path | None, disk_limit: int, memory_limit: int) -> None:
        """Change the folder and the limits. Entries in the former folder stay there."""
        with self._lock:
            self.folder, self.disk_limit, self.memory_limit = folder, disk_limit, memory_limit
            self._folders += 1
            self._forget()
            if folder is not None:
                self._trim(folder, disk_limit)

    def clear(self) -> None:
        """Remove all entries from memory and from the folder."""
        with self._lock:
            self._memory.clear()
            if self.folder is not None:
                self._trim(self.folder, 0)

    def _warn(self, size: int) -> None:
        """Log, only once, that an entry is too large. A training stores its state again and again."""
        if not self._has_warned:
            log.warning(
                "%s: an entry of %.2g GB is not kept: the cache may hold %.2g GB. Allow it more if work is to be found again.",
                self.folder,
                size / 1e9,
                self.disk_limit / 1e9,
            )
        self._has_warned = True

    def _remember(self, key: str, entry: Entry) -> None:
        self._memory.pop(key, None)
        if entry.size <= self.memory_limit:
            self._memory[key] = entry
        self._forget()

    def _forget(self) -> None:
        while sum(entry.size for entry in self._memory.values()) > self.memory_limit:
            self._memory.popitem(last=False)

    def _read(self, key: str) -> Entry | None:
        if self.folder is None or not (path := self.folder / (key + SUFFIX)).is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys() if name != BYTE}  # noqa: SIM118
                kept_as, notes, checksum = json.loads((file.metadata() or {})[FORMAT])
            entry = Entry(tensors, notes)
            if kept_as != key or checksum != _checksum(key, entry) or not _is_finite(entry):
                return None
            os.utime(path)  # used now
        except Exception:  # of damage, or since another process removed the file in the meantime
            return None
        return entry

    @staticmethod
    def _write(path: Path, key: str, entry: Entry) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{secrets.token_hex(8)}{SUFFIX}.tmp")
        try:
            with temporary.open("wb") as stream:
                header = json.dumps([key, entry.notes, _checksum(key, entry)])
                stream.write(save(entry.tensors | {BYTE: torch.zeros(1, dtype=torch.uint8)}, {FORMAT: header}))
                stream.flush()
                os.fsync(stream.fileno())  # otherwise a power cut may leave an empty file of the right size
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _trim(self, folder: Path, limit: int) -> None:
        """Remove abandoned temporary files, and the oldest entries until at most ``limit`` bytes are left."""
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            try:
                stat = path.stat()
                if path.suffix == SUFFIX:
                    found.append((stat.st_mtime, stat.st_size, path))
                elif path.name.endswith(f"{SUFFIX}.tmp") and time.time() - stat.st_mtime > ABANDONED:
                    path.unlink()
            except OSError:  # another process removed it, or holds it open
                continue
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                return
            try:
                path.unlink(missing_ok=True)
                self._changes[_last_word(path.name.removesuffix(SUFFIX))] += 1
                total -= size
            except OSError:
                continue


def _last_word(key: str) -> str:
    return key.rpartition("-")[2] if "-" in key else ""


def _checksum(key: str, entry: Entry) -> str:
    """Return the sha256 of the key and of all that the entry holds."""
    named = sorted(entry.tensors.items())
    shapes = [[name, str(tensor.dtype), *tensor.shape] for name, tensor in named]
    found = hashlib.sha256(json.dumps([key, sorted(entry.notes.items()), shapes]).encode())
    for _, tensor in named:
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _is_finite(entry: Entry) -> bool:
    return all(is_finite(tensor) for tensor in entry.tensors.values() if tensor.is_floating_point())
