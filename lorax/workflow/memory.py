"""Keeps a host's last result for its next job."""

from collections.abc import Hashable, Sequence

from lorax.files import Cache
from lorax.models import Models
from lorax.transfer import Moved


class Memory:
    """The last result, unless it is large, so that a transfer need not repeat an analysis; and the host's cache and models."""

    LIMIT = 4 << 30  # bytes on the disk

    def __init__(self, cache: Cache | None = None, models: Models | None = None) -> None:
        self.cache, self.models = cache, models
        self._last: tuple[Hashable, bool, tuple[Moved, ...]] | None = None

    def of(self, key: Hashable, survey: bool) -> Sequence[Moved] | None:
        """Return the last result, if it is for this key. A survey serves also if none is requested, but not the reverse."""
        last = self._last
        return last[2] if last is not None and last[0] == key and last[1] >= survey else None

    def keep(self, key: Hashable, survey: bool, moved: Sequence[Moved]) -> None:
        """Replace the last result."""
        self._last = (key, survey, tuple(moved)) if sum(one.layers.size for one in moved) <= self.LIMIT else None
