"""The one orchestrator: tab, API and command line have it analyse, and transfer and write, adapters between two bases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorax import output
from lorax.checkpoint import open_checkpoint
from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.files import Staging, stamp
from lorax.formats import open_adapter
from lorax.methods import runs_models
from lorax.models import Models, check_all
from lorax.options import Options, Saving
from lorax.progress import Progress, silent
from lorax.transfer import Context, Cost, Moved, Plan, as_json, estimate, plan_all, run_all, total
from lorax.workflow.destination import Destination, ReportFile
from lorax.workflow.memory import Memory
from lorax.workflow.request import Request, Result


def plans(request: Request) -> list[Plan]:
    """Plan each adapter before any work. Raises LoraxError if one of them does not fit the bases."""
    adapters = [open_adapter(adapter.path) for adapter in request.adapters]
    source = open_checkpoint(request.source.path, request.source.sha256)
    target = source if request.is_within_one_base else open_checkpoint(request.target.path, request.target.sha256)
    return plan_all(adapters, source, target, request.options, request.running)


def cost_of(request: Request) -> Cost:
    """Estimate a transfer by a method that runs the models, from headers alone. Raises LoraxError if they cannot be run."""
    planned = plans(replace(request, options=replace(request.options, pairing="name")))  # of other pairs it takes about as much
    check_all(planned[0].source, planned[0].target)
    return total(estimate(one) for one in planned)


def analyse(
    request: Request, progress: Progress = silent, memory: Memory | None = None, report: ReportFile | None = None
) -> list[Result]:
    """Do everything but write the adapters, and measure how alike the bases are in every layer.

    If the method runs the models, nothing is done, but it is told what a transfer would do and take.
    """
    with Staging() as staging:
        state, planned = _state(request), plans(request)
        if report:
            report.check(planned)
        moved = _run(request, planned, progress, state, memory or Memory(), survey=True)
        results = [_result(request, number, planned[number], one) for number, one in enumerate(moved)]
        if report:
            report.stage(reports_of(results), staging)
    return results


def transfer(
    request: Request,
    destination: Destination,
    progress: Progress = silent,
    memory: Memory | None = None,
    report: ReportFile | None = None,
    announce: Callable[[Cost], None] = lambda cost: None,
) -> list[Result]:
    """Move the adapters and write them: all files appear together at the end, or none does.

    ``announce`` is called before models are run, with what that takes.
    """
    with Staging() as staging:
        state, planned = _state(request), plans(request)
        if report:
            report.check(planned)
        paths, saving = destination.paths(planned), destination.saving
        if runs_models(request.options.method):
            announce(total(estimate(one) for one in planned))
        moved = _run(request, planned, progress, state, memory or Memory(), survey=False)
        if not output.holds_moved(planned[0], saving) or any(made.layers for made in moved):
            _find_hashes(planned[0], saving, progress)
        results = [_result(request, number, planned[number], one) for number, one in enumerate(moved)]
        if report:
            report.stage(reports_of(results), staging)
        for number, (one, made, path) in enumerate(zip(planned, moved, paths, strict=True)):
            progress(number, len(paths), f"writing {path.name}")
            files = output.stage(one, made, path, staging, saving)
            results[number] = replace(results[number], files=tuple(files), note=output.note(one, made, saving))
        progress(len(paths), len(paths), "")  # the last moment at which a stop leaves nothing
    return results


def reports_of(results: Sequence[Result], *, with_files: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the report of one adapter as values of JSON, or a list of those of several, if asked for with what was written."""
    reports = [{"adapter": str(result.given)} | as_json(result.report) for result in results]
    if with_files:
        for report, result in zip(reports, results, strict=True):
            report |= {"written": [str(file) for file in result.files], "note": result.note}
    return reports[0] if len(reports) == 1 else reports


def diffusers_models(options: Options) -> Models:
    """Return what runs models if no host does. Raises LoraxError if diffusers is not installed."""
    try:
        from lorax.runner import Runners  # diffusers is slow to import, and may be missing
    except ModuleNotFoundError as error:
        raise LoraxError(
            f"method {options.method} runs the models and needs {error.name}, which is not installed here. Install it with "
            "pip install -e .[demo], or choose a method that needs the weights alone."
        ) from error
    return Runners(pick_device(options.device))


def _result(request: Request, number: int, plan: Plan, moved: Moved) -> Result:
    return Result(request.adapters[number], plan.adapter.given, plan.adapter.path, moved.report)


def _find_hashes(plan: Plan, saving: Saving, progress: Progress) -> None:
    """Find the hashes of the bases that a written header names, which takes as long as reading them."""

    def told(done: int, total: int, name: str) -> None:
        progress(done, total, f"{name}: {done} of {total} MB")

    for base in (plan.source, *([plan.target] if output.holds_moved(plan, saving) else [])):
        base.identity.find(told)


def _state(request: Request) -> Hashable:
    """Return what differs once a file or an option does.

    It always differs if a folder is asked for, since what is in it may change unseen.
    """
    paths: tuple[Path, ...] = (request.source.path, request.target.path, *(adapter.path for adapter in request.adapters))
    return request.options, request.running, tuple(stamp(path) if path.is_file() else object() for path in paths)


def _run(
    request: Request, planned: list[Plan], progress: Progress, state: Hashable, memory: Memory, *, survey: bool
) -> list[Moved]:
    running = runs_models(request.options.method) and not survey
    if (known := memory.of(state, survey)) is not None:
        return known

    def show(done: int, total: int, name: str) -> None:
        step = f"{name}, step" if running else "layer"
        progress(done, total, f"{request.adapters_in_words}: {step} {min(done + 1, total)} of {total}")

    models = (memory.models or diffusers_models(request.options)) if running else None
    moved = run_all(planned, Context(show, memory.cache, models), survey=survey)
    if running or not runs_models(request.options.method):
        memory.keep(state, survey, moved)
    return moved
