"""Hidden folders for the temporaries of a run, beside what it writes. Those of a run that died are removed by the next one."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import IO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed, which serves as well
    fcntl = None

LOCK = "lock"
PREFIX, SUFFIX = ".lorax-", ".tmp"


def hidden(folder: Path, mark: str) -> Path:
    """Return the path in ``folder`` of what is of no use to anybody once the run is dead."""
    return folder / f"{PREFIX}{mark}{SUFFIX}"


class TemporaryFolder:
    """A hidden folder in ``parent``, with a lock in it that ends with the process, however that ends.

    Whoever can take the lock knows that the folder is of no use to anybody. Where the file system has no locks, nobody can, and
    the folder of a run that died stays. With a ``mark``, only one such folder can be there at a time; without one, any number.
    Raises FileExistsError if another run has the folder of this mark.
    """

    def __init__(self, parent: Path, mark: str = "") -> None:
        _remove_dead(parent)
        self.path, self._lock = _locked_folder(parent, mark)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        _remove(self.path, self._lock)


def _locked_folder(parent: Path, mark: str) -> tuple[Path, IO[bytes]]:
    while True:
        path = hidden(parent, mark or secrets.token_hex(8))
        path.mkdir()
        try:
            lock = (path / LOCK).open("xb")
        except (FileNotFoundError, FileExistsError):  # another run took it for one that died before it had a lock
            continue
        except OSError:
            path.rmdir()
            raise
        if _take(lock) is not False and _is_at(lock, path / LOCK):
            return path, lock
        lock.close()


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Tell whether the open file still has this name, which another run's may have by now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_dead(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*{SUFFIX}"):
        if path.is_symlink():
            continue
        try:
            if fcntl is None:
                (path / LOCK).unlink(missing_ok=True)
            lock = (path / LOCK).open("ab")
        except OSError:  # in use on Windows; removed in the meantime; somebody else's
            continue
        if _take(lock):
            _remove(path, lock)
        lock.close()


def _take(lock: IO[bytes]) -> bool | None:
    """Whether the lock could be taken; None where the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(path: Path, lock: IO[bytes]) -> None:
    """Remove the folder, its lock last, so that a kill leaves what the next run can remove."""
    for other in path.iterdir() if path.is_dir() else ():
        if other.name != LOCK:
            with suppress(OSError):  # removed in the meantime, or in use on Windows
                other.unlink()
    if fcntl is None:
        lock.close()
    shutil.rmtree(path, ignore_errors=True)
    lock.close()
