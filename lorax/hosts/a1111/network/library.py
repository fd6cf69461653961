"""The WebUI's checkpoints, as fitting needs to know them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modules import sd_models

from lorax.formats import Header


class Checkpoints:
    """Hashes are those that the WebUI knows by now; it computes a checkpoint's when it first loads it."""

    def sha256(self, path: Path) -> str | None:
        return next((info.sha256 for info in sd_models.checkpoints_list.values() if Path(info.filename) == path), None)

    def candidates(self, header: Header) -> Iterable[Path]:
        """Those of the same content, then those of the same name."""
        known = [(Path(info.filename), info.sha256) for info in sd_models.checkpoints_list.values()]
        yield from (path for path, sha256 in known if sha256 == header.source_sha256)
        yield from (path for path, sha256 in known if sha256 != header.source_sha256 and path.name == header.source)
