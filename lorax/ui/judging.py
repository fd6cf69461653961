"""Finds verdicts in the background, so that no page waits for them."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from functools import cached_property

from lorax.catalog import ListedFile, record
from lorax.errors import Interrupted
from lorax.files import stamp
from lorax.hosts.base import Host
from lorax.options import Running
from lorax.transfer import Verdict
from lorax.workflow import Verdicts

KEPT = 64  # questions whose answers are kept
AT_ONCE = 0.3  # seconds in which most answers that are kept in the cache are there


@dataclass(frozen=True)
class Asked:
    """What a page asks: verdicts on adapters for a target, from one source or each from the base that its file names.

    ``running``: what Refine and Bridge are to do.
    """

    adapters: Sequence[ListedFile]
    target: ListedFile
    source: ListedFile | None
    bases: Sequence[ListedFile]
    running: Running | None = None

    @cached_property
    def state(self) -> Hashable:
        """What differs once another answer may be right."""
        files = (self.target, *filter(None, [self.source]), *self.adapters)
        known = (self.source is None, *(base.path for base in (() if self.source else self.bases)))
        said = tuple(record(one.path).confirmed for one in self.adapters)
        return self.running, known, said, *((one.path, stamp(one.path) if one.path.is_file() else None) for one in files)


class Judging:
    """The verdicts that pages have asked for. One question is worked on at a time; what no page asks any more is given up."""

    def __init__(self, host: Host) -> None:
        self.verdicts = Verdicts(host.cache(), host.models(), host.device())
        self._worker = ThreadPoolExecutor(1, "lorax-verdicts")
        self._found: OrderedDict[Hashable, Future[list[Verdict]]] = OrderedDict()
        self._asked: OrderedDict[str, Hashable] = OrderedDict()  # the last question of each page
        self._lock = threading.Lock()

    def ask(self, page: str, asked: Asked) -> list[Verdict] | None:
        """Return a verdict for each adapter; None as long as they are being found, which goes on in the background."""
        question = asked.state, self.verdicts.pictures
        with self._lock:
            self._asked[page] = question
            self._asked.move_to_end(page)
            if len(self._asked) > KEPT:
                self._asked.popitem(last=False)
            found = self._found.get(question)
            if found is None or (found.done() and found.exception()):
                found = self._found[question] = self._worker.submit(self._judge, asked, question)
                while len(self._found) > KEPT:
                    self._found.popitem(last=False)
        try:
            return found.result(AT_ONCE)  # so that the page does not show for a moment that one is looked for
        except (TimeoutError, Interrupted):  # another tab of this browser asks about something else
            return None

    def _judge(self, asked: Asked, question: Hashable) -> list[Verdict]:
        def wanted(done: int, total: int, text: str) -> None:
            with self._lock:
                is_asked = question in self._asked.values()
            if not is_asked:
                raise Interrupted

        return self.verdicts.of_all(asked.adapters, asked.target, asked.source, asked.bases, wanted, asked.running)
