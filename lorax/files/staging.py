"""Writes several files together or not at all: under temporary names, which are replaced once all are complete."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from lorax.errors import LoraxError


def check_folder(path: Path, option: str = "--output") -> None:
    """Raise LoraxError if ``path``, which was given as ``option``, has no folder to be written into."""
    if not path.parent.is_dir():
        raise LoraxError(f"{path}: its folder does not exist. Create it, or choose another {option}.")


def check_free(
    path: Path,
    inputs: Iterable[Path],
    overwrite: bool,
    option: str = "--output",
    replace: str = "let transfer replace it with --overwrite",
) -> None:
    """Raise LoraxError if ``path``, which was given as ``option``, must not be written.

    Folders, the ``inputs`` and what lies in them are never written, whatever ``overwrite`` says. ``replace`` tells how a user can
    have a file replaced.
    """
    places = [place for place in (path, *path.resolve().parents) if place.exists()]
    if read := next((one for one in inputs for place in places if place.samefile(one)), None):
        raise LoraxError(f"{path}: is or lies in {read}, which is read and must not change. Choose another {option}.")
    if path.is_dir():
        raise LoraxError(f"{path}: a folder; expected the name of a file. Choose another {option}.")
    if path.exists() and not overwrite:
        raise LoraxError(f"{path}: exists already. Choose another {option}, or {replace}.")


class Staging:
    """A context in which files are written under temporary names: ``staging.add(path).write_text(...)``.

    When the block ends, the files take their places in the order in which they were added. If the block fails or is interrupted,
    or if a file cannot take its place, everything is as before: new files are removed, and replaced ones are put back. A
    KeyboardInterrupt in the block is raised again with the words "nothing was written".
    """

    def __init__(self) -> None:
        self._temporaries: dict[Path, Path] = {}

    def add(self, path: Path) -> Path:
        """A temporary file in the same folder, to write instead of ``path``. Raises LoraxError if ``path`` was added before."""
        if _key(path) in self._temporaries:
            raise LoraxError(f"{path}: named for two outputs. Choose another name for one of them.")
        temporary = _hidden(path)
        self._temporaries[_key(path)] = temporary
        return temporary

    def is_free(self, path: Path) -> bool:
        """Whether ``path`` neither exists nor was added."""
        return not path.exists() and _key(path) not in self._temporaries

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("nothing was written") from error
            if error is None:
                self._rename()
        finally:
            for temporary in self._temporaries.values():
                temporary.unlink(missing_ok=True)

    def _rename(self) -> None:
        old = {path: _hidden(path) for path in self._temporaries if _is_there(path)}
        try:
            for path, temporary in self._temporaries.items():
                if path in old:
                    path.replace(old[path])
                temporary.replace(path)
        finally:  # an interrupt may strike when all are in place
            done = all(_is_there(path) and not temporary.exists() for path, temporary in self._temporaries.items())
            for path in self._temporaries:
                if done and path in old:
                    old[path].unlink()
                elif not done and path not in old:
                    path.unlink(missing_ok=True)
                elif not done and _is_there(old[path]):
                    old[path].replace(path)


def _hidden(path: Path) -> Path:
    return path.with_name(f".lorax-{secrets.token_hex(8)}.tmp")


def _is_there(path: Path) -> bool:
    """Whether something has this name, even a broken link."""
    return path.is_symlink() or path.exists()


def _key(path: Path) -> Path:
    """The path in one spelling per file. Links are not followed, since the name is what is written."""
    return path.parent.resolve() / path.name
