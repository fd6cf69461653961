"""Moves adapters with different sources to one or more targets. Each of them ends by itself, whatever becomes of the others."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lorax.catalog import ListedFile, Origins, Sure, record
from lorax.checkpoint import open_checkpoint
from lorax.errors import Interrupted, LoraxError, in_words, is_expected
from lorax.files import Inputs, Staging
from lorax.formats import open_adapter
from lorax.methods import runs_models
from lorax.options import Batching, Options, Running
from lorax.output import Naming
from lorax.progress import READING, Progress, silent
from lorax.transfer import Cost, Moved
from lorax.workflow.destination import Claims, Destination, ReportFile
from lorax.workflow.memory import Memory
from lorax.workflow.outcomes import End, Outcome, outcome_as_json
from lorax.workflow.passes import Pass
from lorax.workflow.request import Request, Result

log = logging.getLogger(__name__)

PORTION = 32  # adapters of a pass, whose layers wait on the disk until it ends; a stop loses no more than these


@dataclass(frozen=True)
class Item:
    """An adapter with its source, which is looked for among the ``bases`` of the batch if it is None."""

    adapter: ListedFile
    source: ListedFile | None = None


@dataclass(frozen=True)
class Batch:
    """The adapters to move to each of the targets, and the options. Raises LoraxError if there is no adapter or no target."""

    items: Sequence[Item]
    targets: Sequence[ListedFile]
    bases: Sequence[ListedFile] = ()
    options: Options = field(default_factory=Options)
    running: Running = field(default_factory=Running)
    batching: Batching = field(default_factory=Batching)

    def __post_init__(self) -> None:
        if not self.items:
            raise LoraxError("No LoRA is chosen. Choose at least one.")
        if not self.targets:
            raise LoraxError("No target is chosen. Choose at least one.")


def batch(
    asked: Batch,
    destination: Destination,
    progress: Progress = silent,
    memory: Memory | None = None,
    report: ReportFile | None = None,
    announce: Callable[[Cost], None] = lambda cost: None,
) -> list[Outcome]:
    """Move and write the adapters; return what became of each for each target, adapter by adapter.

    The files of one adapter for one target appear together, or not at all, as soon as they are made: those of one pass over two
    bases at its end, and with a method that runs the models one after the other. A stop, by ``progress`` or the keyboard, keeps
    what was finished until then; the rest ends as stopped. The ``report`` is written in any case, unless the stop comes before
    all files are read, by which it is known what it must not replace. ``announce`` gets the cost of each pass before models are
    run. Raises LoraxError if the report cannot be written.
    """
    work = _Work(asked, destination, memory or Memory(), announce, report)
    with suppress(Interrupted, KeyboardInterrupt):
        work.run(progress)
    outcomes = work.outcomes()
    if report and work.has_begun:
        with Staging() as staging:
            report.stage([outcome_as_json(one) for one in outcomes], staging)
    return outcomes


@dataclass
class _Task:
    """One adapter on its way to one target."""

    adapter: ListedFile
    target: ListedFile
    source: ListedFile | None
    path: Path | None = None
    outcome: Outcome | None = None

    def end(self, how: End, error: str = "", result: Result | None = None) -> None:
        path = self.path if how.is_good else None
        self.outcome = Outcome(self.adapter, self.target, how, self.source, path, error, result)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Have whatever goes wrong in the block end this task alone. A stop passes."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            self.end(End.FAILED, _in_words(self.adapter.path, error))


class _Work:
    """The tasks of a batch."""

    def __init__(
        self,
        asked: Batch,
        destination: Destination,
        memory: Memory,
        announce: Callable[[Cost], None],
        report: ReportFile | None,
    ) -> None:
        self._asked, self._destination, self._memory, self._announce = asked, destination, memory, announce
        self._report = report
        self._tasks = [_Task(item.adapter, target, item.source) for item in asked.items for target in asked.targets]
        self.has_begun = False  # whether all files are read

    def outcomes(self) -> list[Outcome]:
        for task in self._tasks:
            if task.outcome is None:
                task.end(End.STOPPED)
        return [task.outcome for task in self._tasks if task.outcome]

    def run(self, progress: Progress) -> None:
        """Do all tasks. Raises LoraxError, before any work, if the report must not be written."""
        self._find_sources(progress)
        claims = Claims(self._destination, self._inputs(progress), self._report)
        self.has_begun = True
        passes = self._passes(claims)
        for number, tasks in enumerate(passes, 1):
            self._move(tasks, _counted(progress, number, len(passes)))
            if len(passes) > 1:  # what is written need not be kept while the next pass runs
                self._memory = Memory(self._memory.cache, self._memory.models)

    def _find_sources(self, progress: Progress) -> None:
        found, origins = dict[Path, ListedFile](), Origins(self._asked.bases)
        for task in self._tasks:
            progress(0, 1, READING)  # hears a stop
            with task.failing():
                task.source = task.source or found.get(task.adapter.path) or self._source(task.adapter, origins)
                found[task.adapter.path] = task.source

    def _source(self, adapter: ListedFile, origins: Origins) -> ListedFile:
        """Return the base of the adapter. Raises LoraxError if it is not known or not there, or the adapter cannot be read."""
        known = record(adapter.path)
        if known.facts.problem:
            raise LoraxError(known.facts.problem)
        found = origins.of(known)
        if found.sure is not Sure.FOUND or found.base is None:
            count = len(self._asked.bases)
            raise LoraxError(f"{adapter.path}: its metadata names none of the {count} checkpoints here as its source. Name it.")
        return found.base

    def _inputs(self, progress: Progress) -> Inputs:
        """Return the files and folders that the batch reads, as far as they can be opened."""
        inputs: dict[Path, Sequence[Path]] = {}
        for task in self._tasks:
            progress(0, 1, READING)
            for file, opened in ((task.adapter, open_adapter), (task.source, open_checkpoint), (task.target, open_checkpoint)):
                if file and file.path not in inputs:
                    inputs[file.path] = (file.path,)
                    with suppress(LoraxError):
                        inputs[file.path] = opened(file.path).inputs
        return Inputs(path for paths in inputs.values() for path in paths)

    def _passes(self, claims: Claims) -> list[list[_Task]]:
        """Return the tasks that are to be done, those of one pass together. Those that exist, or cannot be named, end here."""
        groups: dict[tuple[object, ...], list[_Task]] = {}
        skip, method = self._asked.batching.skip_existing, self._asked.options.method
        for number, task in enumerate(self._tasks):
            if task.source is None:
                continue
            with task.failing():
                given = task.adapter.path.absolute() if task.adapter.path.is_dir() else task.adapter.path
                task.path = claims.path(Naming(given, task.source.path, task.target.path, method), may_exist=skip)
                if skip and task.path.is_file():
                    task.end(End.EXISTED)
                    continue
                alone = number if runs_models(method) else None
                groups.setdefault((task.source.path, task.target.path, alone), []).append(task)
        return [tasks[start : start + PORTION] for tasks in groups.values() for start in range(0, len(tasks), PORTION)]

    def _move(self, tasks: list[_Task], progress: Progress) -> None:
        """Move and write the adapters of one pass. If that fails, each half of them is tried by itself."""
        try:
            work, saving = self._opened(tasks, progress), self._destination.saving
            work.prepare([task.path for task in tasks if task.path], saving, self._announce)
            moved = work.run()
            work.find_hashes(moved, saving)
        except Interrupted:
            raise
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].end(End.FAILED, _in_words(tasks[0].adapter.path, error))
                return
        else:
            moved.reverse()
            for number, task in enumerate(tasks):  # what is written is needed no more
                with task.failing():
                    self._write(work, number, task, moved.pop())
            return
        middle = len(tasks) // 2
        self._move(tasks[:middle], progress)
        self._move(tasks[middle:], progress)

    def _opened(self, tasks: Sequence[_Task], progress: Progress) -> Pass:
        source, target = tasks[0].source, tasks[0].target
        assert source is not None
        adapters = [task.adapter for task in tasks]
        return Pass(Request(source, target, adapters, self._asked.options, self._asked.running), progress, self._memory)

    def _write(self, work: Pass, number: int, task: _Task, moved: Moved) -> None:
        assert task.path is not None
        staging, result = Staging([self._report.path] if self._report else []), None
        try:
            with staging:
                result = work.stage(number, moved, task.path, staging, self._destination.saving)
                work.finish(task.path)
        except KeyboardInterrupt:
            if staging.is_placed():
                task.end(End.WRITTEN, result=result)
            raise
        left = End.DECLINED if result.report.declined else End.UNMOVED
        task.end(End.WRITTEN if result.files else left, result=result)


def _in_words(adapter: Path, error: Exception) -> str:
    """Return what a user reads about an error, which has ended one adapter of several."""
    if not is_expected(error):
        log.error("moving %s", adapter, exc_info=error)
    return in_words(error, f"{adapter}: ")


def _counted(progress: Progress, number: int, passes: int) -> Progress:
    """Return the progress of one of several passes, as a share of all of them."""

    def show(done: int, total: int, text: str) -> None:
        progress((number - 1) * total + done, passes * total, f"{number} of {passes}: {text}" if passes > 1 else text)

    return show
