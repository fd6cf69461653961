"""Gives verdicts on adapters. What is found of two bases, and of each adapter between them, is kept."""

import importlib.util
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lorax.catalog import ListedFile, Origin, Sure, origin
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import LoraxError, UnsupportedFamily
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.models import Models, check_all
from lorax.options import Options
from lorax.progress import Progress, silent
from lorax.transfer import Cost, Kind, Plan, Verdict, estimate, judging, plan_all
from lorax.workflow.known import PAIRS, Known, KnownPairs, state_of

log = logging.getLogger(__name__)


@dataclass
class Bases:
    """Two bases, which are opened when an adapter needs it, and what is known of them."""

    source: ListedFile
    target: ListedFile
    known: Known

    @cached_property
    def opened(self) -> tuple[Checkpoint, Checkpoint]:
        """The source and the target. Raises LoraxError if one of them cannot be read or is of an unsupported family."""
        return _opened(self.source), _opened(self.target)

    @cached_property
    def cannot_run(self) -> str:
        """Why they cannot be run; empty if they can."""
        try:
            check_all(*self.opened)
        except LoraxError as error:
            return str(error)
        return ""


@dataclass
class Asked:
    """What is asked of several adapters, with the bases that were opened for them."""

    target: ListedFile
    source: ListedFile | None
    bases: list[ListedFile]
    opened: dict[Path, Bases] = field(default_factory=dict)


class Verdicts:
    """Gives a host's verdicts. ``models``: the host's own; None if diffusers runs them."""

    def __init__(self, cache: Cache | None = None, models: Models | None = None, device: str = "auto") -> None:
        self._options = Options(device=device)
        has_models = models is not None or importlib.util.find_spec("diffusers") is not None
        self._lacking = "" if has_models else "diffusers is not installed here."
        self._pairs = KnownPairs(cache, f"{device} {has_models}")
        self._lock = threading.Lock()  # the tab and the API may ask at once

    def of(self, adapter: ListedFile, source: ListedFile, target: ListedFile) -> Verdict:
        """Return the verdict on one adapter."""
        return self.of_all([adapter], target, source)[0]

    def of_all(
        self,
        adapters: Sequence[ListedFile],
        target: ListedFile,
        source: ListedFile | None = None,
        bases: Iterable[ListedFile] = (),
        progress: Progress = silent,
    ) -> list[Verdict]:
        """Return the verdicts on adapters from ``source``, or without it from that of the ``bases`` which each of them names.

        Whatever is wrong with a file becomes a verdict. ``progress`` may raise to stop.
        """
        asked, found = Asked(target, source, list(bases)), []
        try:
            for number, adapter in enumerate(adapters):
                progress(number, len(adapters), adapter.name)
                with self._lock:
                    found.append(self._guarded(adapter, asked))
        finally:
            for opened in asked.opened.values():
                self._pairs.save(opened.known)
        return found

    def _guarded(self, adapter: ListedFile, asked: Asked) -> Verdict:
        """Return the verdict on an adapter. Whatever one file holds, the others must have theirs."""
        try:
            source, target = asked.source, asked.target
            if source is None:
                found = origin(adapter.path, asked.bases)
                if found.sure is not Sure.FOUND or found.base is None:
                    return _of_unknown(adapter, target, found)
                source = found.base
            if source.path not in asked.opened:
                asked.opened[source.path] = Bases(source, target, self._pairs.of(source.path, target.path))
                if len(asked.opened) > PAIRS:
                    self._pairs.save(asked.opened.pop(next(iter(asked.opened))).known)
            return self._of(adapter, asked.opened[source.path])
        except (LoraxError, OSError) as error:
            return Verdict(Kind.UNREADABLE, reason=str(error))
        except Exception as error:
            log.exception("judging %s", adapter.path)
            return Verdict(Kind.UNREADABLE, reason=f"{adapter.path}: an unexpected {type(error).__name__}.")

    def _of(self, adapter: ListedFile, bases: Bases) -> Verdict:
        state = state_of(adapter.path)
        if (found := bases.known.verdicts.get(state)) is None:
            found = self._judged(adapter, bases)
            if state:
                bases.known.keep(state, found)
        return found

    def _judged(self, adapter: ListedFile, bases: Bases) -> Verdict:
        try:
            opened = open_adapter(adapter.path)
        except UnsupportedFamily as error:
            return Verdict(Kind.OTHER_ARCHITECTURE, names=(error.title,))
        try:
            source, target = bases.opened
        except UnsupportedBase as error:
            if error.base is bases.target:
                return Verdict(Kind.OTHER_ARCHITECTURE, names=(error.base.name, error.title))
            return Verdict(Kind.WRONG_SOURCE, reason=str(error))
        relation = bases.known.relation_of(source, target)
        try:
            plan = plan_all([opened], source, target, self._options, pairs=relation.pairs)[0]
        except LoraxError as error:
            return Verdict(Kind.WRONG_SOURCE, reason=str(error))
        if bases.source.path.resolve() == bases.target.path.resolve():
            same = Verdict(Kind.SAME, layers=len(opened.layers))
            return replace(same, actions=judging.actions(same, 0, {}))
        return self._with_actions(judging.judge(plan, relation), plan, bases)

    def _with_actions(self, verdict: Verdict, plan: Plan, bases: Bases) -> Verdict:
        methods = judging.methods_for(verdict.kind)
        if methods and (why := self._lacking or bases.cannot_run):
            verdict, methods = replace(verdict, reason=why), ()
        running = {method: self._cost(plan, method, verdict.kind, bases.known) for method in methods}
        return replace(verdict, actions=judging.actions(verdict, judging.moving_seconds(plan.source, plan.target), running))

    @staticmethod
    def _cost(plan: Plan, method: str, kind: Kind, known: Known) -> Cost:
        """Estimate the cost, once for all adapters that change the same layers at the same ranks."""
        changed = hash(tuple((name, layer.rank) for name, layer in plan.adapter.layers.items()))
        key = method, kind, changed
        if key not in known.costs:
            known.costs[key] = estimate(plan, method, related=kind not in (Kind.UNRELATED, Kind.CROSSED))
        return known.costs[key]


class UnsupportedBase(UnsupportedFamily):
    """A base in a list that is of an unsupported family."""

    def __init__(self, base: ListedFile, error: UnsupportedFamily) -> None:
        super().__init__(str(error), error.title)
        self.base = base


def _opened(base: ListedFile) -> Checkpoint:
    try:
        return open_checkpoint(base.path, base.sha256)
    except UnsupportedFamily as error:
        raise UnsupportedBase(base, error) from error


def _of_unknown(adapter: ListedFile, target: ListedFile, found: Origin) -> Verdict:
    """Return the verdict on an adapter whose source is not known or not listed, unless it cannot be moved from any."""
    try:
        open_adapter(adapter.path)
    except UnsupportedFamily as error:
        return Verdict(Kind.OTHER_ARCHITECTURE, names=(error.title,))
    try:
        _opened(target)
    except UnsupportedBase as error:
        return Verdict(Kind.OTHER_ARCHITECTURE, names=(target.name, error.title))
    if found.sure is Sure.MISSING:
        return Verdict(Kind.SOURCE_MISSING, names=tuple(filter(None, (found.name, found.hash))))
    return Verdict(Kind.SOURCE_UNKNOWN, names=tuple(base.name for base in found.could_be))
