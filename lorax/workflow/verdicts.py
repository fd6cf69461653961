"""Gives verdicts on adapters. What is found of two bases, and of each adapter between them, is kept."""

import importlib.util
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lorax.catalog import FileKind, ListedFile, Origin, Origins, Provenance, Sure, base_of, known_sha256, record
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import LoraxError, UnsupportedFamily, in_words, is_expected
from lorax.files import Cache
from lorax.formats import AdapterFile, open_adapter
from lorax.models import Models, check_all
from lorax.options import Options, Running
from lorax.progress import Progress, silent
from lorax.transfer import Cost, Kind, Plan, Verdict, estimate, judging, pictures_changed, plan_all
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
    """What is asked of several adapters, with the bases that were opened for them.

    ``by_structure``: whether what the adapters' headers tell is enough, which is the same for all of one structure. ``running``:
    what the methods that run the models are to do, by which the actions' costs are told; None: what is usual.
    """

    target: ListedFile
    source: ListedFile | None
    origins: Origins
    by_structure: bool = False
    running: Running | None = None
    opened: dict[Path, Bases] = field(default_factory=dict)

    @cached_property
    def unsupported(self) -> str:
        """What the target is, if it is of an unsupported family; else empty."""
        return record(self.target.path).unsupported


class Verdicts:
    """Gives a host's verdicts. ``models``: the host's own; None if diffusers runs them."""

    def __init__(self, cache: Cache | None = None, models: Models | None = None, device: str = "auto") -> None:
        self._options = Options(device=device)
        has_models = models is not None or importlib.util.find_spec("diffusers") is not None
        self._lacking = "" if has_models else "diffusers is not installed here."
        self._cache, self._pairs = cache, KnownPairs(cache, f"{device} {has_models}")
        self._lock = threading.Lock()  # the tab and the API may ask at once

    @property
    def pictures(self) -> int:
        """A number that differs once pictures or answers came into the cache or went: then another time may be told."""
        return pictures_changed(self._cache)

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
        running: Running | None = None,
    ) -> list[Verdict]:
        """Return the verdicts on adapters from ``source``, or without it from that of the ``bases`` which each of them names.

        Whatever is wrong with a file becomes a verdict. ``progress`` may raise to stop.
        """
        return list(self.each(adapters, Asked(target, source, Origins(bases), running=running), progress))

    def each(self, adapters: Sequence[ListedFile], asked: Asked, progress: Progress = silent) -> Iterator[Verdict]:
        """Yield the verdict on each of the adapters; see ``of_all``."""
        try:
            for number, adapter in enumerate(adapters):
                progress(number, len(adapters), adapter.name)
                with self._lock:
                    found = self._guarded(adapter, asked)
                yield found
        finally:
            for opened in asked.opened.values():
                self._pairs.save(opened.known)

    def _guarded(self, adapter: ListedFile, asked: Asked) -> Verdict:
        """Return the verdict on an adapter. Whatever one file holds, the others must have theirs."""
        try:
            source, target, known = asked.source, asked.target, record(adapter.path)
            if known.unsupported and known.kind is FileKind.ADAPTER:
                return Verdict(Kind.OTHER_ARCHITECTURE, is_for=known.unsupported)
            if known.facts.problem:
                return Verdict(Kind.UNREADABLE, reason=known.facts.problem)
            if source is None:
                found = asked.origins.of(known)
                if found.sure is not Sure.FOUND or found.base is None:
                    return _of_copy(_of_unknown(asked, found), known.facts.origin, target)
                source = found.base
            if source.path not in asked.opened:
                asked.opened[source.path] = Bases(source, target, self._pairs.of(source.path, target.path))
                if len(asked.opened) > PAIRS:
                    self._pairs.save(asked.opened.pop(next(iter(asked.opened))).known)
            bases = asked.opened[source.path]
            verdict = self._of(adapter, bases, known.structure if asked.by_structure else "")
            pictures = None if asked.by_structure else self._pictures(adapter, source)
            if pictures or asked.running not in (None, Running()):
                verdict = self._priced(verdict, adapter, bases, asked.running, pictures)
            return _of_copy(verdict, known.facts.origin, target)
        except Exception as error:
            if not is_expected(error):
                log.exception("judging %s", adapter.path)
            return Verdict(Kind.UNREADABLE, reason=in_words(error, f"{adapter.path}: "))

    def _of(self, adapter: ListedFile, bases: Bases, structure: str) -> Verdict:
        """Return the verdict on the adapter: by its ``structure`` alone, if it is not empty and there is no closer one yet."""
        known, state = bases.known, state_of(adapter.path)
        found = known.verdicts.get(state) or known.structures.get(structure)
        if found is None:
            found = self._judged(adapter, bases, closely=not structure)
            if structure and found.kind is not Kind.WRONG_SOURCE:  # whose reason names this file
                known.keep_structure(structure, found)
            elif state:
                known.keep(state, found)
        return found

    def _pictures(self, adapter: ListedFile, source: ListedFile) -> Cache | None:
        """Return the cache if it may hold pictures of the adapter: both files were hashed, without which none is kept."""
        return self._cache if all(map(known_sha256, (adapter, source))) else None

    def _priced(
        self, found: Verdict, adapter: ListedFile, bases: Bases, running: Running | None, pictures: Cache | None
    ) -> Verdict:
        """Return the verdict with what its actions cost if the models are run so, and with the pictures that are there."""
        if not any(action.bytes for action in found.actions):
            return found
        (source, target), known = bases.opened, bases.known
        pairs = known.relation_of(source, target).pairs
        plan = plan_all([open_adapter(adapter.path, known_sha256(adapter))], source, target, self._options, running, pairs)[0]
        priced = []
        for action in found.actions:
            if action.bytes and action.do.method:
                cost = self._cost(plan, action.do.method, known, pictures)
                action = replace(action, **vars(cost))
            priced.append(action)
        return replace(found, actions=tuple(priced))

    def _judged(self, adapter: ListedFile, bases: Bases, closely: bool) -> Verdict:
        opened = open_adapter(adapter.path)
        try:
            source, target = bases.opened
        except UnsupportedBase as error:
            if error.base is bases.target:
                return Verdict(Kind.OTHER_ARCHITECTURE, base=error.base.name, base_is=error.title)
            return Verdict(Kind.WRONG_SOURCE, reason=str(error), base=error.base.name, base_is=error.title)
        relation = bases.known.relation_of(source, target)
        try:
            plan = plan_all([opened], source, target, self._options, pairs=relation.pairs)[0]
        except LoraxError as error:
            return self._of_wrong_source(opened, bases, error)
        if bases.source.path.resolve() == bases.target.path.resolve():
            same = Verdict(Kind.SAME, layers=len(opened.layers))
            return replace(same, actions=judging.actions(same, 0, {}))
        return self._with_actions(judging.judge(plan, relation, closely), plan, bases)

    @staticmethod
    def _of_wrong_source(opened: AdapterFile, bases: Bases, error: LoraxError) -> Verdict:
        """Return the verdict with what the adapter is for, if it is for another family than the source."""
        made_for = opened.family
        is_for = made_for.title if made_for and record(bases.source.path).family != made_for.name else ""
        return Verdict(Kind.WRONG_SOURCE, reason=str(error), base=bases.source.name, is_for=is_for)

    def _with_actions(self, verdict: Verdict, plan: Plan, bases: Bases) -> Verdict:
        methods = judging.methods_for(verdict.kind)
        if methods and (why := self._lacking or bases.cannot_run):
            verdict, methods = replace(verdict, reason=why), ()
        running = {method: self._cost(plan, method, bases.known) for method in methods}
        return replace(verdict, actions=judging.actions(verdict, judging.moving_seconds(plan), running))

    @staticmethod
    def _cost(plan: Plan, method: str, known: Known, pictures: Cache | None = None) -> Cost:
        """Estimate the cost, without ``pictures`` once for all adapters that change the same layers alike."""
        if pictures:
            return estimate(plan, method, cache=pictures, alone=True)
        changed = hash(tuple((name, layer.rank, layer.is_low_rank) for name, layer in plan.adapter.layers.items()))
        key = method, changed, plan.running
        if key not in known.costs:
            known.costs[key] = estimate(plan, method, alone=True)
        return known.costs[key]


class UnsupportedBase(UnsupportedFamily):
    """A base in a list that is of an unsupported family."""

    def __init__(self, base: ListedFile, error: UnsupportedFamily) -> None:
        super().__init__(str(error), error.title)
        self.base = base


def _opened(base: ListedFile) -> Checkpoint:
    try:
        return open_checkpoint(base.path, known_sha256(base))
    except UnsupportedFamily as error:
        raise UnsupportedBase(base, error) from error


def _of_copy(verdict: Verdict, origin: Provenance | None, target: ListedFile) -> Verdict:
    """Return the verdict, which tells of an adapter that a transfer has made of which one it did."""
    if origin is None or origin.target is None:
        return verdict
    is_here = verdict.kind is Kind.SAME and base_of(origin.target, [target]) is not None
    return replace(verdict, kind=Kind.MADE if is_here else verdict.kind, made_of=origin.lora.title)


def _of_unknown(asked: Asked, found: Origin) -> Verdict:
    """Return the verdict on an adapter whose source is not known or not listed, unless it cannot be moved to the target."""
    if asked.unsupported:
        return Verdict(Kind.OTHER_ARCHITECTURE, base=asked.target.name, base_is=asked.unsupported)
    if found.sure is Sure.MISSING:
        return Verdict(Kind.SOURCE_MISSING, base=" ".join(filter(None, (found.name, found.hash))))
    return Verdict(Kind.SOURCE_UNKNOWN, could_be=tuple(base.name for base in found.could_be))
