"""Files that appear together or not at all: written under temporary names, renamed when all of them are there."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from lorax.errors import LoraxError


def check_folder(path: Path, option: str = "--output") -> None:
    """Raise LoraxError when there is no folder to write ``path`` into; ``option`` is what named it."""
    if not path.parent.is_dir():
        raise LoraxError(f"{path}: its folder does not exist. Create it, or choose another {option}.")


def check_free(
    path: Path,
    inputs: Iterable[Path],
    overwrite: bool,
    option: str = "--output",
    replace: str = "let transfer replace it with --overwrite",
) -> None:
    """Raise LoraxError before any work is done when ``path``, given as ``option``, must not be written.

    Never written, whatever ``overwrite`` says: the ``inputs``, what lies in one that is a folder, and folders. ``replace`` says
    how the user may have a file replaced.
    """
    places = [place for place in (path, *path.resolve().parents) if place.exists()]
    if read := next((one for one in inputs for place in places if place.samefile(one)), None):
        raise LoraxError(f"{path}: is or lies in {read}, which is read and must not change. Choose another {option}.")
    if path.is_dir():
        raise LoraxError(f"{path}: a folder; expected the name of a file. Choose another {option}.")
    if path.exists() and not overwrite:
        raise LoraxError(f"{path}: exists already. Choose another {option}, or {replace}.")


class Staging:
    """``with Staging() as staging: staging.add(path).write_text(...)``.

    When the block ends, the files take their places in the order in which they were added. When it fails or is interrupted, or
    a file cannot take its place, all is as it was: those that are new are taken away again, and those that were replaced are put
    back. A KeyboardInterrupt from before the first file took its place leaves with the words "nothing was written".
    """

    def __init__(self) -> None:
        self._temporaries: dict[Path, Path] = {}

    def add(self, path: Path) -> Path:
        """The temporary file, in the same folder, to write instead of ``path``. Raises LoraxError if ``path`` has one already."""
        if _key(path) in self._temporaries:
            raise LoraxError(f"{path}: named for two outputs. Choose another name for one of them.")
        temporary = _hidden(path)
        self._temporaries[_key(path)] = temporary
        return temporary

    def is_free(self, path: Path) -> bool:
        """Whether ``path`` neither exists nor is about to."""
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
    """Whether something has this name, be it a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def _key(path: Path) -> Path:
    """One spelling per file. A link is not followed: it is the name that is written."""
    return path.parent.resolve() / path.name
