"""The hashes that identify a base."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from lorax.files import Hashes, Part, hashes, legacy_hash, title_of
from lorax.progress import Meter, hashing


class Identity:
    """The hashes of the base at ``path``, computed when first needed. ``sha256``: that of the file's content, if it is known."""

    def __init__(self, path: Path, parts: Mapping[str, Part], sha256: str | None) -> None:
        self._path, self._parts, self._given = path, parts, sha256

    @property
    def sha256(self) -> str:
        """sha256 of the file's content; of a folder, of the content of its weight files in order."""
        return self._hashes.sha256

    @property
    def legacy(self) -> str:
        """The WebUI's old 8-digit hash of the file; empty for a folder."""
        return self._hashes.legacy if self._path.is_file() else ""

    @property
    def unread(self) -> int:
        """Bytes that must be read before the hashes are known."""
        return 0 if "_hashes" in vars(self) or self._given else sum(file.stat().st_size for file in self._files)

    def find(self, meter: Meter) -> None:
        """Compute the hashes now. Raises what the progress raises to stop."""
        if unread := self.unread:
            name, total = hashing(title_of(self._path)), unread >> 20
            self._hashes = hashes(*self._files, read=lambda done: meter.at(done, total, name, unit=" MB"))

    def fingerprint(self, layers: Iterable[str]) -> str:
        """Return the sha256 of these layers' weights in half precision. The layout and the stored precision do not matter."""
        content = hashlib.sha256()
        for layer in sorted(layers):
            weight = self._parts[layer].get().flatten(1).half()
            content.update(f"{layer} {tuple(weight.shape)}".encode())
            content.update(weight.numpy().tobytes())
        return content.hexdigest()

    @cached_property
    def _hashes(self) -> Hashes:
        if self._given and self._path.is_file():
            return Hashes(self._given, legacy_hash(self._path))
        return hashes(*self._files)

    @property
    def _files(self) -> list[Path]:
        return list(dict.fromkeys(part.file.path for part in self._parts.values()))
