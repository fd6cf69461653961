"""Remembers what each page has chosen, so that it is there again after F5 and in another tab of the browser."""

import threading
from dataclasses import dataclass, field

from lorax.ui.requests import Reply, Values

KEPT = 200  # pages


@dataclass
class Page:
    """What is remembered of a page: the values of its form, and what was told and proposed for them."""

    id: str
    values: Values = field(default_factory=dict)
    loaded: str | None = None  # the base that was loaded when the page last asked
    guess: str | None = None  # the source that the user is asked to confirm
    compared: Reply = field(default_factory=dict)  # the fields of Compare as the last comparison was started with
    rows: int = 50  # of the library that are shown at most
    moving: set[str] = field(default_factory=set)  # names of LoRAs of the library that are ticked until they are moved


class Pages:
    """The pages that were open last. A browser has one, whose number it keeps."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        self._lock = threading.Lock()

    def of(self, id: str) -> Page:
        """Return the page of this number, a new one if it is not known."""
        with self._lock:
            found = self._pages.pop(id, None) or Page(id)
            self._pages[id] = found  # as the last one
            for old in list(self._pages)[:-KEPT]:
                del self._pages[old]
            return found
