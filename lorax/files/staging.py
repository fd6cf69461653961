"""Writes several files together or not at all: first under temporary names, which are replaced once all are complete."""

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
    """Raise LoraxError if ``path``, given as ``option``, must not be written. ``replace``: how a user can have it replaced."""
    existing = [one for one in (path, *path.resolve().parents) if one.exists()]
    if read := next((one for one in inputs for other in existing if other.samefile(one)), None):
        raise LoraxError(f"{path}: is or lies in {read}, which is read and must not change. Choose another {option}.")
    if path.is_dir():
        raise LoraxError(f"{path}: a folder; expected the name of a file. Choose another {option}.")
    if path.exists() and not overwrite:
        raise LoraxError(f"{path}: exists already. Choose another {option}, or {replace}.")


class Staging:
    """A context in which files are written under temporary names: ``staging.add(path).write_text(...)``.

    At the end of the block the files are renamed, in the order in which they were added. If the block or a renaming fails or is
    interrupted, new files are removed and replaced ones restored. A KeyboardInterrupt in the block is raised again with the words
    "nothing was written".
    """

    def __init__(self) -> None:
        self._temporaries: dict[Path, Path] = {}

    def add(self, path: Path) -> Path:
        """Return a temporary path in the same folder, to write instead of ``path``. Raises LoraxError if it was added before."""
        if _key(path) in self._temporaries:
            raise LoraxError(f"{path}: named for two outputs. Choose another name for one of them.")
        temporary = _hidden(path)
        self._temporaries[_key(path)] = temporary
        return temporary

    def is_free(self, path: Path) -> bool:
        """Tell whether ``path`` neither exists nor was added."""
        return not path.exists() and _key(path) not in self._temporaries

    def __enter__(self) -> "Staging":
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
        finally:  # an interrupt may come after the last renaming
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
    """Tell whether anything has this name, even a broken link."""
    return path.is_symlink() or path.exists()


def _key(path: Path) -> Path:
    """Return the path in a unique spelling. A link at its end is not followed, since that name is written."""
    return path.parent.resolve() / path.name
