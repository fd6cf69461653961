"""Puts a written file into its place, in one step, and back out of it."""

import gc
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorax.errors import LoraxError
from lorax.files.temporary import TemporaryFolder

PATIENCE = 5.0  # seconds; a name is claimed for much less than a thousandth of it


class Placing:
    """A file that is written as ``temporary``, in a hidden ``folder`` beside ``path``, and then takes its place.

    ``number`` tells it from others in the folder. ``overwrite``: whether it may replace a file.
    """

    def __init__(self, path: Path, folder: Path, number: int, overwrite: bool) -> None:
        self.path, self.temporary, self._overwrite = path, folder / f"{number}.tmp", overwrite
        self._old = folder / f"{number}-old.tmp"
        self._written: os.stat_result | None = None

    def finish(self) -> None:
        """Have the disk hold what was written: otherwise a power cut may leave an empty file under the name."""
        with self.temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        self._written = self.temporary.lstat()

    def place(self) -> None:
        """Take the place. Raises LoraxError if there is something that may not be replaced, OSError if it cannot be."""
        try:
            _claim(self.temporary, self.path)
        except FileExistsError as error:
            if self.path.is_dir() or not self._overwrite:
                raise LoraxError(
                    f"{self.path}: appeared while this was made, and is left as it is. Nothing was written: choose another name, "
                    "or remove it and try again."
                ) from error
            _keep(self.path, self._old)
            _replace(self.temporary, self.path)

    def is_placed(self) -> bool:
        """Whether the file has taken its place. It holds also when an interrupt struck in the middle of ``place``."""
        try:
            return self._written is not None and os.path.samestat(self.path.lstat(), self._written)
        except OSError:
            return False

    def put_back(self) -> Path | None:
        """Undo ``place``, if it was done. Return where the old file is if another program keeps it from its place."""
        if not self.is_placed():
            return None
        try:
            if not os.path.lexists(self._old):
                self.path.unlink()
                return None
            _replace(self._old, self.path)
        except OSError:
            if not os.path.lexists(self._old):
                return None
            place = self.path.with_name(f"{self.path.name}.{self._old.parent.name.strip('.')}")
            _claim(self._old, place)
            return place
        return None


def _claim(file: Path, path: Path) -> None:
    """Give the file a name that is free. Raises FileExistsError, in the same step, if it is not."""
    if os.name == "nt":
        file.rename(path)
        return
    try:
        path.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError:  # the file system has no links
        with _claimed(path):
            if os.path.lexists(path):
                raise FileExistsError(path) from None
            file.replace(path)


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Keep other runs from claiming the name meanwhile. Raises FileExistsError if one does, for more than ``PATIENCE``."""
    mark, began = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16], time.monotonic()
    while True:
        try:
            guard = TemporaryFolder(path.parent, mark)
            break
        except FileExistsError:
            if time.monotonic() - began > PATIENCE:
                raise
            time.sleep(0.001)
    try:
        yield
    finally:
        guard.close()


def _keep(path: Path, old: Path) -> None:
    """Give the file a second name, or make a copy where the file system has no links."""
    if path.is_symlink():
        old.symlink_to(path.readlink())
        return
    try:
        old.hardlink_to(path)
    except OSError:
        shutil.copy2(path, old)


def _replace(file: Path, path: Path) -> None:
    try:
        file.replace(path)
    except PermissionError:  # Windows replaces no file that is open or mapped
        gc.collect()  # closes what nobody here reads any more
        file.replace(path)
