"""Knows files: what was read of them before, and else what their headers say. There is one index for the process."""

import atexit
import hashlib
import stat
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from lorax import __version__
from lorax.catalog.index import Index
from lorax.catalog.reading import read
from lorax.catalog.record import Facts, FileKind, ListedFile, Record
from lorax.files import Stamp, hashes, stamp
from lorax.formats import sidecars

READERS = ("catalog", "checkpoint", "files", "formats")  # rooms on whose code it depends what is read of a file
_index = Index()


def keep_in(folder: Path | None) -> None:
    """Keep what is known of files in this folder from now on; None: in memory alone."""
    global _index
    if folder != _index.folder:
        _index.close()
        _index = Index(folder)


def forget() -> bool:
    """Forget what was read of all files; return whether that was possible. What the user has said of them stays."""
    return _index.clear()


@atexit.register
def flush() -> None:
    """Have the disk hold what was read so far."""
    _index.flush()


def facts(path: Path) -> Facts:
    """Return the facts in an adapter's header and sidecars. Each state of these files is read once."""
    return record(path).facts


def seen(path: Path) -> Record | None:
    """Return what was last known of a file, without a look at the disk; None if nothing is."""
    return _index.seen(str(path.absolute()))


def record(path: Path) -> Record:
    """Return what is known of a file in its present state, with what the user has said of it."""
    found, said = _read(path), _index.confirmed(str(path.absolute()))
    return replace(found, confirmed=said[1]) if said and said[0] == _bare_state(path) else found


def confirm(adapter: Path, base: Path) -> None:
    """Remember that the user says on which base an adapter was trained, as long as the adapter does not change."""
    if state := _bare_state(adapter):
        _index.confirm(str(adapter.absolute()), state, str(base.absolute()))


def _read(path: Path) -> Record:
    """Return what is known of a file in its present state by its content."""
    where, state = str(path.absolute()), _state(path)
    if state is None:
        gone = replace(read(path), kind=FileKind.GONE)
        _index.remember(where, "", gone)
        return gone
    if not state:
        return read(path)
    if (found := _index.get(where, state)) is None:
        found = read(path)
        if found.is_lasting:
            _index.put(where, state, found)
        else:
            _index.remember(where, "", found)
    return found


def sha256(path: Path) -> str:
    """Return the hash of the file's content. Each state of it is read once."""
    found = _read(path).sha256
    if not found:
        before = stamp(path)
        keep_sha256(path, found := hashes(path).sha256, before)
    return found


def known_sha256(file: ListedFile) -> str | None:
    """Return the hash of a listed file's content if the host or the index knows it; None if the file must be read for it."""
    return file.sha256 or _read(file.path).sha256 or None


def keep_sha256(path: Path, sha256: str, then: Stamp) -> None:
    """Keep the hash of what the file held at the stamp ``then``, as long as it does not change; if it has changed, keep none."""
    if (state := _state(path)) and stamp(path) == then:
        _index.put(str(path.absolute()), state, replace(_read(path), sha256=sha256))


class Survey:
    """Reads files in a thread, so that nobody waits for them."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        with self._lock:
            return self._thread is not None and self._thread.is_alive()

    def begin(self, paths: Sequence[Path]) -> None:
        """Read these files in place of those that are still to be read."""
        with self._lock:
            self.done, self.total = 0, len(paths)
            self._thread = threading.Thread(target=self._run, args=(list(paths),), name="lorax-survey", daemon=True)
            self._thread.start()

    def _run(self, paths: list[Path]) -> None:
        for number, path in enumerate(paths, 1):
            if self._thread is not threading.current_thread():  # another one has taken over
                return
            record(path)
            self.done = number
        _index.flush()


def _state(path: Path) -> str | None:
    """Return a text that differs if the file, one beside it or our code does; empty for a folder, and None if there is none."""
    bare = _bare_state(path)
    return " ".join(map(str, (_reader(), bare, *sidecars.changes(path)))) if bare else bare


def _bare_state(path: Path) -> str | None:
    """Return a text that differs if the file itself does; empty for a folder, and None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return ""  # in which a change cannot be seen
    return f"{found.st_size} {found.st_mtime_ns}"


@cache
def _reader() -> str:
    """Return a digest of the code that reads files: what it read is not taken over by a newer version of it."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(file for room in READERS for file in (root / room).glob("*.py"))
    content = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(__version__.encode() + content).hexdigest()[:12]
