"""Analyses, transfers and writes adapters, for the tab, the API and the command line alike."""

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
    """Plan the transfer of each adapter. Raises LoraxError if one of them does not fit the bases."""
    adapters = [open_adapter(adapter.path) for adapter in request.adapters]
    source = open_checkpoint(request.source.path, request.source.sha256)
    target = source if request.is_within_one_base else open_checkpoint(request.target.path, request.target.sha256)
    return plan_all(adapters, source, target, request.options, request.running)


def cost_of(request: Request) -> Cost:
    """Estimate a transfer by a method that runs the models, from headers alone. Raises LoraxError if they cannot be run."""
    planned = plans(replace(request, options=replace(request.options, pairing="name")))  # other pairs take about as much
    check_all(planned[0].source, planned[0].target)
    return total(estimate(one) for one in planned)


def analyse(
    request: Request, progress: Progress = silent, memory: Memory | None = None, report: ReportFile | None = None
) -> list[Result]:
    """Do all but write, and measure the similarity of every layer. Models are not run: the report tells what would be done."""
    with Staging() as staging:
        state, planned = _state(request), plans(request)
        if report:
            report.check(planned)
        moved = _run(request, planned, progress, state, memory or Memory(), survey=True)
        results = _results(request, planned, moved)
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
    """Move and write the adapters; all files appear together, or none does. ``announce`` gets the cost before models are run."""
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
        results = _results(request, planned, moved)
        if report:
            report.stage(reports_of(results), staging)
        for number, (one, made, path) in enumerate(zip(planned, moved, paths, strict=True)):
            progress(number, len(paths), f"writing {path.name}")
            files = output.stage(one, made, path, staging, saving)
            results[number] = replace(results[number], files=tuple(files), note=output.note(one, made, saving))
        progress(len(paths), len(paths), "")  # the last chance to stop before the files appear
    return results


def reports_of(results: Sequence[Result], *, with_files: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the report of one adapter as values of JSON, or a list for several; with the written files and the note if asked."""
    reports = [{"adapter": str(result.given)} | as_json(result.report) for result in results]
    if with_files:
        for report, result in zip(reports, results, strict=True):
            report |= {"written": [str(file) for file in result.files], "note": result.note}
    return reports[0] if len(reports) == 1 else reports


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


def _results(request: Request, planned: list[Plan], moved: list[Moved]) -> list[Result]:
    adapters = (plan.adapter for plan in planned)
    ends = zip(request.adapters, adapters, moved, strict=True)
    return [Result(listed, adapter.given, adapter.path, one.report) for listed, adapter, one in ends]


def _find_hashes(plan: Plan, saving: Saving, progress: Progress) -> None:
    """Hash the bases that a written header names, which takes as long as reading them."""

    def show(done: int, total: int, name: str) -> None:
        progress(done, total, f"{name}: {done} of {total} MB")

    for base in (plan.source, *([plan.target] if output.holds_moved(plan, saving) else [])):
        base.identity.find(show)


def _state(request: Request) -> Hashable:
    """Return a value that differs if a file or an option does. It always differs if a path is a folder."""
    paths: tuple[Path, ...] = (request.source.path, request.target.path, *(adapter.path for adapter in request.adapters))
    return request.options, request.running, tuple(stamp(path) if path.is_file() else object() for path in paths)


def _run(
    request: Request, planned: list[Plan], progress: Progress, state: Hashable, memory: Memory, *, survey: bool
) -> list[Moved]:
    running = runs_models(request.options.method) and not survey
    if (last := memory.of(state, survey)) is not None:
        return last

    def show(done: int, total: int, name: str) -> None:
        step = f"{name}, step" if running else "layer"
        progress(done, total, f"{request.adapters_in_words}: {step} {min(done + 1, total)} of {total}")

    models = (memory.models or diffusers_models(request.options)) if running else None
    moved = run_all(planned, Context(show, memory.cache, models), survey=survey)
    if running or not runs_models(request.options.method):
        memory.keep(state, survey, moved)
    return moved
