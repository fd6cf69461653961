"""Writes several files together or not at all: in a hidden folder, from which they take their places once all are complete."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from lorax.errors import LoraxError
from lorax.files.placing import Placing
from lorax.files.temporary import TemporaryFolder


def check_folder(path: Path, option: str = "--output") -> None:
    """Raise LoraxError if ``path``, which was given as ``option``, has no folder to be written into."""
    if not path.parent.is_dir():
        raise LoraxError(f"{path}: its folder does not exist. Create it, or choose another {option}.")


class Inputs:
    """The files and folders that a job reads, as far as they exist. They are looked at once, however many outputs there are."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = {found: path for path in paths if (found := _identity(path))}

    def holding(self, path: Path) -> Path | None:
        """Return what is read and is ``path``, or a folder around it; None if nothing is."""
        places = map(_identity, (path, *path.resolve().parents))
        return next((self._paths[place] for place in places if place in self._paths), None)


def check_free(
    path: Path,
    inputs: Inputs,
    overwrite: bool,
    option: str = "--output",
    replace: str = "let transfer replace it with --overwrite",
) -> None:
    """Raise LoraxError if ``path``, which was given as ``option``, must not be written.

    Folders, the ``inputs`` and what lies in them are never written, whatever ``overwrite`` says. ``replace`` tells how a user can
    have a file replaced.
    """
    if read := inputs.holding(path):
        raise LoraxError(f"{path}: is or lies in {read}, which is read and must not change. Choose another {option}.")
    if path.is_dir():
        raise LoraxError(f"{path}: a folder; expected the name of a file. Choose another {option}.")
    if os.path.lexists(path) and not overwrite:  # a link to nowhere, too
        raise LoraxError(f"{path}: exists already. Choose another {option}, or {replace}.")


class Staging:
    """A context in which files are written elsewhere at first: ``staging.write(path, save)`` calls ``save(temporary)``.

    When the block ends, the files take their places in the order in which they were added. If the block fails or is interrupted,
    or if a file cannot take its place, everything is as before: new files are removed, and replaced ones are put back. A
    KeyboardInterrupt in the block is raised again with the words "nothing was written". Whenever the process is killed, every
    name holds the old file or the new one, whole. ``taken``: names that something else will be written to.
    """

    def __init__(self, taken: Iterable[Path] = ()) -> None:
        self._taken = {_key(path) for path in taken}
        self._files: dict[Path, Placing] = {}
        self._folders: dict[Path, TemporaryFolder] = {}
        self._made: list[Path] = []

    def add(self, path: Path, overwrite: bool = False) -> Path:
        """Return a temporary file to write instead of ``path``, whose folder is made if it is missing.

        ``overwrite``: whether to replace a file that has this name at the end. Raises LoraxError if ``path`` was added before.
        """
        key = _key(path)
        if self.is_added(path):
            raise LoraxError(f"{path}: named for two outputs. Choose another name for one of them.")
        self._make(key.parent)
        if key.parent not in self._folders:
            self._folders[key.parent] = TemporaryFolder(key.parent)
        self._files[key] = Placing(path, self._folders[key.parent].path, len(self._files), overwrite)
        return self._files[key].temporary

    def write(self, path: Path, save: Callable[[Path], object], overwrite: bool = False) -> None:
        """Have ``save`` write the temporary file that ``add`` returns. Raises LoraxError, which names ``path``, if it cannot."""
        try:
            save(self.add(path, overwrite))
        except (OSError, SafetensorError) as error:
            raise _failed(path, error) from error

    def is_free(self, path: Path) -> bool:
        """Tell whether ``path`` neither exists nor was added."""
        return not os.path.lexists(path) and not self.is_added(path)

    def is_added(self, path: Path) -> bool:
        """Tell whether ``path`` was added, or is taken."""
        return _key(path) in self._files or _key(path) in self._taken

    def size(self, path: Path) -> int:
        """Return the size in bytes of what was written for ``path``."""
        return self._files[_key(path)].temporary.stat().st_size

    def is_placed(self) -> bool:
        """Tell whether there are files, and all of them have taken their places."""
        return bool(self._files) and all(file.is_placed() for file in self._files.values())

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("nothing was written") from error
            if error is None:
                self._place()
        finally:
            for folder in self._folders.values():
                folder.close()
            for made in reversed(self._made):
                _remove_if_empty(made)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        try:
            folder.mkdir()
            self._made.append(folder)
        except FileExistsError:  # another process made it
            pass

    def _place(self) -> None:
        files = list(self._files.values())
        try:
            for step in (Placing.finish, Placing.place):
                for file in files:
                    try:
                        step(file)
                    except OSError as error:
                        raise _failed(file.path, error) from error
        except BaseException as error:
            if not self.is_placed():  # an interrupt may strike when all are in place
                _put_back(files, error)
            raise


def _put_back(files: list[Placing], error: BaseException) -> None:
    """Have every name hold what it held before. Raises LoraxError, which says where it is, if something cannot be put back."""
    elsewhere = [(file.path, place) for file in reversed(files) if (place := file.put_back()) is not None]
    if elsewhere:
        told = ", ".join(f"what was {path} is now {place}" for path, place in elsewhere)
        raise LoraxError(f"{error} It could not be put back: {told}.") from error


def _failed(path: Path, error: Exception) -> LoraxError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return LoraxError(
        f"{path}: cannot be written ({reason}). Nothing was changed. Check the space on the disk and the permissions of its "
        "folder, and close other programs that use the file."
    )


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file or folder; None if nothing is there that may be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def is_same_name(path: Path, other: Path) -> bool:
    """Tell whether both are one name, however they are spelled."""
    return _key(path) == _key(other)


def _key(path: Path) -> Path:
    """Return the path in a unique spelling. A link at its end is not followed, since that name is written."""
    return path.parent.resolve() / path.name
