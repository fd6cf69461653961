"""An index of what is known of files, in memory and in a small SQLite file.

It is a file of our own, and not the host's cache: A1111's ``modules.cache`` finds what it keeps by the time of change alone, is
written as one JSON file in some versions, and is not there for the standalone host and the command line, which share this one.
"""

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lorax.catalog.record import Record

log = logging.getLogger(__name__)

NAME = "library.sqlite"
SCHEMA = 1
MOST, LARGEST = 30_000, 32_000  # files; characters of what is kept of each, which are some hundred as a rule
TOGETHER, SOON = 200, 2.0  # records that are written at a time; seconds after which fewer are written, too
TABLES = {"files": ["path", "state", "record"], "confirmed": ["path", "state", "base"]}
PATIENCE = 5.0  # seconds to wait for another process
T = TypeVar("T")


class Index:
    """Records by path and state, in memory and in ``folder``, if there is one. Several processes may use one folder.

    A damaged file is made anew. If the disk is full, may not be written or is locked for long, memory alone is used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._memory: dict[str, tuple[str, Record]] = {}
        self._waiting: dict[bytes, tuple[str, str]] = {}
        self._written = 0.0  # when, by the monotonic clock
        self._confirmed: dict[str, tuple[str, str]] | None = None  # all of them, once one was asked for
        self._connection: sqlite3.Connection | None = None
        self._is_off, self._lock = folder is None, threading.RLock()

    def seen(self, path: str) -> Record | None:
        """Return what was last known of the file, without a look at the disk."""
        found = self._memory.get(path)
        return found[1] if found else None

    def get(self, path: str, state: str) -> Record | None:
        """Return what is known of the file in this state, or None."""
        found = self._memory.get(path)
        if found is None or found[0] != state:
            record = self._read(path, state)
            if record is None:
                return None
            found = state, record
            self.remember(path, state, record)
        return found[1]

    def put(self, path: str, state: str, record: Record) -> None:
        """Keep what is known of the file in this state. It is written soon, together with others."""
        self.remember(path, state, record)
        if self._is_off or len(text := json.dumps(record.as_json())) > LARGEST:
            return
        with self._lock:
            self._waiting[_key(path)] = state, text
            if len(self._waiting) >= TOGETHER or time.monotonic() - self._written > SOON:
                self.flush()

    def confirmed(self, path: str) -> tuple[str, str] | None:
        """Return the state in which an adapter's base was confirmed, and the path of that base; None if none was."""
        return self._all_confirmed().get(path)

    def confirm(self, path: str, state: str, base: str) -> None:
        """Keep the base that the user says an adapter was trained on. It is written at once, and outlives our code."""
        self._all_confirmed()[path] = state, base
        statement = "INSERT OR REPLACE INTO confirmed VALUES (?, ?, ?)"
        with self._lock:
            self._guarded(lambda connection: connection.execute(statement, (_key(path), state, _key(base))))

    def _all_confirmed(self) -> dict[str, tuple[str, str]]:
        if (found := self._confirmed) is None:  # later nobody waits for a thread that writes
            with self._lock:
                if (found := self._confirmed) is None:  # another thread may have read it meanwhile, and added to it
                    rows = self._guarded(lambda connection: connection.execute("SELECT * FROM confirmed").fetchall())
                    found = self._confirmed = {_text(path): (state, _text(base)) for path, state, base in rows or ()}
        return found

    def remember(self, path: str, state: str, record: Record) -> None:
        """Keep it in memory alone."""
        if len(self._memory) >= MOST:
            self._memory.clear()
        self._memory[path] = state, record

    def flush(self) -> None:
        """Write what waits to be written."""
        with self._lock:
            rows = [(path, *kept) for path, kept in self._waiting.items()]
            self._waiting.clear()
            if rows:
                self._guarded(lambda connection: _write(connection, rows))
                self._written = time.monotonic()

    def clear(self) -> bool:
        """Forget all files, but not what the user has said of them. Return whether that was possible on the disk, too."""
        with self._lock:
            self._memory.clear()
            self._waiting.clear()
            self._is_off = self.folder is None  # what had switched it off may be over
            # The file stays: another process may have it open, and have written to it what its user has said.
            self._guarded(_emptied)
            return self.folder is None or not self._is_off

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._lock:
            self.flush()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _read(self, path: str, state: str) -> Record | None:
        with self._lock:
            query = "SELECT record FROM files WHERE path = ? AND state = ?"
            row = self._guarded(lambda connection: connection.execute(query, (_key(path), state)).fetchone())
        try:
            return Record.of_json(json.loads(row[0])) if row else None
        except (ValueError, TypeError, KeyError, AttributeError):  # not what was written
            return None

    def _guarded(self, work: Callable[[sqlite3.Connection], T], again: bool = True) -> T | None:
        """Return what ``work`` does with the file; None if it cannot be used. A damaged one is made anew."""
        if self._is_off or self.folder is None:
            return None
        file = self.folder / NAME
        try:
            if self._connection is None:
                self._connection = _opened(file)
            return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            if again and not isinstance(error, sqlite3.OperationalError | OSError) and self._removed(file):
                return self._guarded(work, again=False)
            log.info("%s: not used any more (%s).", file, error)
            self._is_off = True
            return None

    def _removed(self, file: Path) -> bool:
        """Remove the file; tell whether that was possible."""
        try:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            for one in (file, file.with_name(f"{file.name}-journal")):
                one.unlink(missing_ok=True)
        except (sqlite3.Error, OSError):
            return False
        return True


def _emptied(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM files")
    with contextlib.suppress(sqlite3.OperationalError):  # it needs room for a while
        connection.execute("VACUUM")


def _key(path: str) -> bytes:
    return path.encode(errors="surrogatepass")  # a file's name need not be text


def _text(key: bytes) -> str:
    return key.decode(errors="surrogatepass")


def _opened(file: Path) -> sqlite3.Connection:
    """Open the file, which is made if there is none. Raises sqlite3.DatabaseError if it is damaged or of another schema."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Each statement is a transaction of its own; the lock of the index keeps threads apart.
    connection = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema not in (0, SCHEMA):
            raise sqlite3.DatabaseError(f"of schema {schema}")
        connection.execute("CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, record TEXT)")
        connection.execute("CREATE TABLE IF NOT EXISTS confirmed (path BLOB PRIMARY KEY, state TEXT, base BLOB)")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("PRAGMA synchronous = NORMAL")
        for table, wanted in TABLES.items():
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if columns != wanted:
                raise sqlite3.DatabaseError(f"{table} with the columns {columns}")
    except BaseException:
        connection.close()
        raise
    return connection


def _write(connection: sqlite3.Connection, rows: list[tuple[bytes, str, str]]) -> None:
    """Write the rows in one transaction. Of too many, the ones that were read longest ago go."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
        (count,) = connection.execute("SELECT count(*) FROM files").fetchone()
        if count > MOST:
            oldest = "SELECT rowid FROM files ORDER BY rowid LIMIT ?"
            connection.execute(f"DELETE FROM files WHERE rowid IN ({oldest})", (count - MOST,))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
