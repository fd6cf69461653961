"""The WebUI's checkpoints, among which a fit looks for the source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modules import sd_models

from lorax.formats import Header


class Checkpoints:
    """The listed checkpoints; implements ``lorax.workflow.Library``. The WebUI hashes a checkpoint when it first loads it."""

    def sha256(self, path: Path) -> str | None:
        return next((info.sha256 for info in sd_models.checkpoints_list.values() if Path(info.filename) == path), None)

    def candidates(self, header: Header) -> Iterable[Path]:
        """Yield the checkpoints with the source's hash, then those with its name."""
        listed = [(Path(info.filename), info.sha256) for info in sd_models.checkpoints_list.values()]
        yield from (path for path, sha256 in listed if sha256 == header.source_sha256)
        yield from (path for path, sha256 in listed if sha256 != header.source_sha256 and path.name == header.source)
