"""Passes over two bases: what an analysis, a transfer and a batch have in common."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from lorax import output
from lorax.checkpoint import open_checkpoint
from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.files import Staging, stamp
from lorax.formats import open_adapter
from lorax.methods import runs_models
from lorax.models import Models
from lorax.options import Options, Saving
from lorax.progress import Progress
from lorax.transfer import Context, Cost, Moved, Plan, estimate, plan_all, run_all, total
from lorax.workflow.memory import Memory
from lorax.workflow.request import Request, Result


def plans(request: Request) -> list[Plan]:
    """Plan the transfer of each adapter. Raises LoraxError if one of them does not fit the bases."""
    adapters = [open_adapter(adapter.path) for adapter in request.adapters]
    source = open_checkpoint(request.source.path, request.source.sha256)
    target = source if request.is_within_one_base else open_checkpoint(request.target.path, request.target.sha256)
    return plan_all(adapters, source, target, request.options, request.running)


class Pass:
    """A request with its ``plans``. Raises LoraxError if one of the adapters does not fit the bases."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._state = _state(request)  # before the files are read
        self.plans = plans(request)

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that are read and must not be written."""
        return [path for plan in self.plans for path in plan.inputs]

    @property
    def cost(self) -> Cost | None:
        """The estimated cost, if models are run."""
        return total(estimate(plan) for plan in self.plans) if runs_models(self.request.options.method) else None

    def run(self, progress: Progress, memory: Memory, *, survey: bool = False) -> list[Moved]:
        """Move the adapters, unless ``memory`` has the result. A ``survey`` measures every layer, and runs no model."""
        running = runs_models(self.request.options.method) and not survey
        if (last := memory.of(self._state, survey)) is not None:
            return last

        def show(done: int, total: int, name: str) -> None:
            step = f"{name}, step" if running else "layer"
            progress(done, total, f"{self.request.adapters_in_words}: {step} {min(done + 1, total)} of {total}")

        models = (memory.models or diffusers_models(self.request.options)) if running else None
        moved = run_all(self.plans, Context(show, memory.cache, models), survey=survey)
        if running or not runs_models(self.request.options.method):
            memory.keep(self._state, survey, moved)
        return moved

    def find_hashes(self, moved: Sequence[Moved], saving: Saving, progress: Progress) -> dict[Path, str]:
        """Hash the bases that a written header names, if one is written, which takes as long as reading; return the hashes."""

        def show(done: int, total: int, name: str) -> None:
            progress(done, total, f"{name}: {done} of {total} MB")

        plan, holds_moved = self.plans[0], output.holds_moved(self.request.options.method, saving)
        if holds_moved and not any(one.layers for one in moved):
            return {}
        bases = (plan.source, *([plan.target] if holds_moved else []))
        for base in bases:
            base.identity.find(show)
        return {base.path: base.identity.sha256 for base in bases if base.path.is_file()}

    def result(self, number: int, moved: Moved, strength: float = 1.0) -> Result:
        """Return the result for an adapter of which nothing is written yet."""
        adapter, report = self.plans[number].adapter, replace(moved.report, saved_strength=strength)
        return Result(self.request.adapters[number], adapter.given, adapter.path, report)

    def stage(self, number: int, moved: Moved, path: Path, staging: Staging, saving: Saving) -> Result:
        """Stage the files of an adapter; return its result with them."""
        plan = self.plans[number]
        files = output.stage(plan, moved, path, staging, saving)
        result = self.result(number, moved, saving.strength)
        return replace(result, files=tuple(files), note=output.note(plan, moved, saving))


def diffusers_models(options: Options) -> Models:
    """Return models run by diffusers. Raises LoraxError if diffusers is not installed."""
    try:
        from lorax.runner import Runners  # diffusers is slow to import, and may be missing
    except ModuleNotFoundError as error:
        raise LoraxError(
            f"method {options.method} runs the models and needs {error.name}, which is not installed here. Install it with "
            "pip install -e .[demo], or choose a method that needs the weights alone."
        ) from error
    return Runners(pick_device(options.device))


def _state(request: Request) -> Hashable:
    """Return a value that differs if a file or an option does. It always differs if a path is a folder."""
    paths: tuple[Path, ...] = (request.source.path, request.target.path, *(adapter.path for adapter in request.adapters))
    return request.options, request.running, tuple(stamp(path) if path.is_file() else object() for path in paths)
