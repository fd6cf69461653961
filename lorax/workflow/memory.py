"""What a host keeps from job to job."""

from __future__ import annotations

from collections.abc import Hashable

from lorax.files import Cache
from lorax.models import Models
from lorax.transfer import Moved


class Memory:
    """The last result, so that a transfer need not repeat an analysis; nothing is kept if it is large.

    ``cache`` is the host's, for what is found of the bases, and ``models`` runs them in the host, as ``Host.models``.
    """

    LIMIT = 1 << 30  # bytes

    def __init__(self, cache: Cache | None = None, models: Models | None = None) -> None:
        self.cache, self.models = cache, models
        self._last: tuple[Hashable, bool, list[Moved]] | None = None

    def of(self, key: Hashable, survey: bool) -> list[Moved] | None:
        """Return what was moved for this key, if it was last. A survey serves also if none is asked for, but not the reverse."""
        last = self._last
        return last[2] if last is not None and last[0] == key and last[1] >= survey else None

    def keep(self, key: Hashable, survey: bool, moved: list[Moved]) -> None:
        """Keep what was moved, in place of what was kept before."""
        size = sum(factor.nbytes for one in moved for delta in one.layers.values() for factor in (delta.up, delta.down))
        self._last = (key, survey, moved) if size <= self.LIMIT else None
