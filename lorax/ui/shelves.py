"""Looks over the library in the background, so that no page waits for it."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from lorax.catalog import ListedFile
from lorax.errors import Interrupted, in_words, is_expected
from lorax.files import stamp
from lorax.hosts.base import Host
from lorax.workflow import Overview, Row, Verdicts

log = logging.getLogger(__name__)

KEPT = 4  # targets
PATIENCE = 20.0  # seconds after which what nobody has asked for is given up; a page that shows it asks each second


@dataclass(eq=False)
class Shelf:
    """What is known of the library for one target so far. ``rows`` grows until it is whole."""

    rows: list[Row] = field(default_factory=list)
    done: int = 0
    total: int = 0
    text: str = ""
    asked: float = 0.0  # when a page wanted to see it, by the monotonic clock
    is_whole: bool = False
    is_given_up: bool = False
    error: str = ""


class Shelves:
    """The shelves that pages have asked for. One is worked on at a time; one that nobody looks at any more is given up."""

    def __init__(self, host: Host, verdicts: Verdicts) -> None:
        self._host, self._verdicts = host, verdicts
        self._worker = ThreadPoolExecutor(1, "lorax-library")
        self._kept: OrderedDict[Hashable, Shelf] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, target: ListedFile, revision: int) -> Shelf:
        """Return what is known for the target. The rest is looked for. ``revision`` counts changes of the lists."""
        key = target.path, stamp(target.path) if target.path.is_file() else None, revision
        with self._lock:
            shelf = self._kept.get(key)
            if shelf is None or shelf.is_given_up:
                shelf = self._kept[key] = Shelf(asked=time.monotonic())
                self._worker.submit(self._fill, shelf, target)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            shelf.asked = time.monotonic()
        return shelf

    def look_closely(self, shelf: Shelf, adapters: Sequence[ListedFile], target: ListedFile) -> None:
        """Have a sample of the layers of these adapters be read, too, and their rows be told anew."""
        shelf.is_whole = False
        self._worker.submit(self._fill, shelf, target, adapters)

    def _fill(self, shelf: Shelf, target: ListedFile, closely: Sequence[ListedFile] = ()) -> None:
        try:
            self._look(shelf, target, closely)
            shelf.is_whole = True
        except Interrupted:
            shelf.is_given_up = True  # what was found is kept, so that the next question goes on from there
        except Exception as error:
            if not is_expected(error):
                log.exception("looking over the library for %s", target.path)
            shelf.error = in_words(error)

    def _look(self, shelf: Shelf, target: ListedFile, closely: Sequence[ListedFile]) -> None:
        def progress(done: int, total: int, text: str) -> None:
            shelf.done, shelf.total, shelf.text = done, total, text
            if time.monotonic() - shelf.asked > PATIENCE:
                raise Interrupted

        adapters = closely or list(self._host.adapters().values())
        overview = Overview(self._verdicts, adapters, target, self._host.bases().values(), bool(closely))
        places = {row.adapter.name: place for place, row in enumerate(shelf.rows)}
        for row in overview.rows(progress):
            if (place := places.get(row.adapter.name)) is None:
                shelf.rows.append(row)
            else:
                shelf.rows[place] = replace(shelf.rows[place], verdict=row.verdict)
