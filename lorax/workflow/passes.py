"""Passes over two bases: what an analysis, a transfer and a batch have in common."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from lorax import output
from lorax.catalog import ListedFile, keep_sha256, known_sha256
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.files import Inputs, Staging, Stamp, stamp
from lorax.formats import AdapterFile, open_adapter
from lorax.methods import runs_models
from lorax.models import Models
from lorax.options import Options, Saving
from lorax.progress import READING, Phase, Progress, silent, writing
from lorax.transfer import (
    Context,
    Cost,
    Moved,
    Plan,
    estimate,
    expected,
    find_hashes,
    hashing_of,
    plan_all,
    run_all,
    total,
)
from lorax.workflow.memory import Memory
from lorax.workflow.request import Request, Result

WRITING = 0.2  # seconds that a file takes, about


def plans(request: Request, progress: Progress = silent) -> list[Plan]:
    """Plan the transfer of each adapter. Raises LoraxError if one of them does not fit the bases."""

    def opened() -> Iterator[AdapterFile]:
        for adapter in request.adapters:
            progress(0, 1, READING)  # hears a stop: there may be thousands
            yield open_adapter(adapter.path, known_sha256(adapter))

    source = open_checkpoint(request.source.path, known_sha256(request.source))
    target = source if request.is_within_one_base else open_checkpoint(request.target.path, known_sha256(request.target))
    return plan_all(opened(), source, target, request.options, request.running)


class Pass:
    """A request with its ``plans``. A ``survey`` measures the similarity of every layer, and runs no model.

    Raises LoraxError if one of the adapters does not fit the bases, or if models must be run and nothing runs them.
    """

    def __init__(
        self, request: Request, progress: Progress = silent, memory: Memory | None = None, *, survey: bool = False
    ) -> None:
        self.request, self._memory, self._survey = request, memory or Memory(), survey
        self._stamps = _stamps(request)  # before the files are read
        self.plans = plans(request, progress)
        running = runs_models(request.options.method) and not survey
        models = (self._memory.models or diffusers_models(request.options)) if running else None
        self._context = Context(progress, self._memory.cache, models)

    @cached_property
    def inputs(self) -> Inputs:
        """The files and folders that are read and must not be written."""
        return Inputs(path for plan in self.plans for path in plan.inputs)

    def prepare(self, paths: Sequence[Path], saving: Saving, announce: Callable[[Cost], None]) -> None:
        """Expect the phases until the files at ``paths`` are written, and announce what they cost if models are run."""
        context, running = self._context, self._context.models is not None
        cached = context.cache is not None and context.cache.is_on_disk
        hashed = [] if running and cached else self._named(saving)
        context.meter.expect([*hashing_of(hashed), *(Phase(writing(path.name), WRITING) for path in paths)], at_end=True)
        if running:
            if cached:  # whether the pictures are there already is only known then
                context.meter.expect(expected(self.plans, None))
                find_hashes(self.plans[0], context)
                self._keep_hashes(self.plans[0].source, self.plans[0].target, *(plan.adapter for plan in self.plans))
            announce(total(estimate(plan, cache=context.cache) for plan in self.plans))

    def run(self) -> list[Moved]:
        """Move the adapters, unless the memory has the result."""
        if (last := self._memory.of(self._key, self._survey)) is not None:
            return list(last)
        moved = run_all(self.plans, self._context, survey=self._survey)
        if not (self._survey and runs_models(self.request.options.method)):
            self._memory.keep(self._key, self._survey, moved)
        return moved

    def find_hashes(self, moved: Sequence[Moved], saving: Saving) -> None:
        """Hash the bases that a written header names, if one is written, which takes as long as reading."""
        if self._holds_moved(saving) and not any(one.layers for one in moved):
            return
        for base in self._named(saving):
            base.identity.find(self._context.meter)
            self._keep_hashes(base)

    def result(self, number: int, moved: Moved, strength: float = 1.0) -> Result:
        """Return the result for an adapter of which nothing is written yet."""
        adapter, report = self.plans[number].adapter, replace(moved.report, saved_strength=strength)
        return Result(self.request.adapters[number], adapter.given, adapter.path, report)

    def stage(self, number: int, moved: Moved, path: Path, staging: Staging, saving: Saving) -> Result:
        """Stage the files of an adapter; return its result with them."""
        plan = self.plans[number]
        self._context.meter.at(0, 1, writing(path.name))
        files = output.stage(plan, moved, path, staging, saving)
        result = self.result(number, moved, saving.strength)
        return replace(result, files=tuple(files), note=output.note(plan, moved, saving))

    def finish(self, path: Path) -> None:
        """Tell that the file is staged: the last chance to stop before it appears."""
        self._context.meter.at(1, 1, writing(path.name))

    @property
    def _key(self) -> Hashable:
        """What differs if a file or an option does. It always differs if a path is a folder."""
        files = tuple(self._stamps.get(listed.path, object()) for listed in _listed(self.request))
        return self.request.options, self.request.running, files

    def _keep_hashes(self, *files: Checkpoint | AdapterFile) -> None:
        """Have verdicts know the hashes by which the cache keeps pictures, so that they see which are drawn already.

        A hash that the host told is not kept: it may be of an older content.
        """
        told = {listed.path for listed in _listed(self.request) if listed.sha256}
        for file in files:
            if file.path in self._stamps and file.path not in told:
                found = file.sha256 if isinstance(file, AdapterFile) else file.identity.sha256
                keep_sha256(file.path, found, self._stamps[file.path])

    def _holds_moved(self, saving: Saving) -> bool:
        return output.holds_moved(self.request.options.method, saving)

    def _named(self, saving: Saving) -> list[Checkpoint]:
        """Return the bases whose hashes a written header names."""
        return [self.plans[0].source, *([self.plans[0].target] if self._holds_moved(saving) else [])]


def diffusers_models(options: Options) -> Models:
    """Return models run by diffusers. Raises LoraxError if diffusers is not installed."""
    try:
        from lorax.runner import Runners  # diffusers is slow to import, and may be missing
    except ModuleNotFoundError as error:
        raise LoraxError(
            f"method {options.method} runs the models and needs {error.name}, which is not installed here. Install it with "
            "pip install -e '.[demo]', or choose a method that needs the weights alone."
        ) from error
    return Runners(pick_device(options.device))


def _listed(request: Request) -> list[ListedFile]:
    return [request.source, request.target, *request.adapters]


def _stamps(request: Request) -> dict[Path, Stamp]:
    """Return the stamps of all files of a request; a folder has none."""
    return {listed.path: stamp(listed.path) for listed in _listed(request) if listed.path.is_file()}
