"""Analyses, transfers and writes adapters, for the tab, the API and the command line alike."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorax import output
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.files import Cache, Staging, stamp
from lorax.formats import open_adapter
from lorax.methods import runs_models
from lorax.models import Models, check_all
from lorax.options import Options, Saving
from lorax.progress import Phase, Progress, silent, writing
from lorax.transfer import (
    Context,
    Cost,
    Moved,
    Plan,
    as_json,
    estimate,
    expected,
    find_hashes,
    hashing_of,
    plan_all,
    run_all,
    total,
)
from lorax.workflow.destination import Destination, ReportFile
from lorax.workflow.memory import Memory
from lorax.workflow.request import Request, Result

WRITING = 0.2  # seconds that a file takes, about


def plans(request: Request) -> list[Plan]:
    """Plan the transfer of each adapter. Raises LoraxError if one of them does not fit the bases."""
    adapters = [open_adapter(adapter.path) for adapter in request.adapters]
    source = open_checkpoint(request.source.path, request.source.sha256)
    target = source if request.is_within_one_base else open_checkpoint(request.target.path, request.target.sha256)
    return plan_all(adapters, source, target, request.options, request.running)


def cost_of(request: Request, cache: Cache | None = None, *, related: bool | None = None) -> Cost:
    """Estimate a transfer by a method that runs the models. Raises LoraxError if they cannot be run.

    ``related``: whether the bases are related, which is found from a few layers if it is not known. ``cache`` may hold pictures.
    """
    planned = plans(replace(request, options=replace(request.options, pairing="name")))  # other pairs take about as much
    check_all(planned[0].source, planned[0].target)
    return total(estimate(one, related=related, cache=cache) for one in planned)


def analyse(
    request: Request, progress: Progress = silent, memory: Memory | None = None, report: ReportFile | None = None
) -> list[Result]:
    """Do all but write, and measure the similarity of every layer. Models are not run: the report tells what would be done."""
    with Staging() as staging:
        state, planned = _state(request), plans(request)
        if report:
            report.check(planned)
        memory = memory or Memory()
        moved = _run(request, planned, Context(progress, memory.cache), state, memory, survey=True)
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
        memory = memory or Memory()
        context = Context(progress, memory.cache, _models(request, memory))
        _prepare(planned, paths, context, saving, announce)
        moved = _run(request, planned, context, state, memory, survey=False)
        if any(made.layers for made in moved) or not output.holds_moved(planned[0], saving):
            for base in _named(planned[0], saving):
                base.identity.find(context.meter)
        results = _results(request, planned, moved)
        if report:
            report.stage(reports_of(results), staging)
        for number, (one, made, path) in enumerate(zip(planned, moved, paths, strict=True)):
            context.meter.at(0, 1, writing(path.name))
            files = output.stage(one, made, path, staging, saving)
            results[number] = replace(results[number], files=tuple(files), note=output.note(one, made, saving))
        context.meter.at(1, 1, writing(paths[-1].name))  # the last chance to stop before the files appear
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


def _prepare(
    planned: list[Plan], paths: Sequence[Path], context: Context, saving: Saving, announce: Callable[[Cost], None]
) -> None:
    """Expect the phases of the job, and announce what it costs if models are run."""
    running, cached = runs_models(planned[0].options.method), context.cache is not None and context.cache.is_on_disk
    hashed = [] if running and cached else _named(planned[0], saving)
    context.meter.expect([*hashing_of(hashed), *(Phase(writing(path.name), WRITING) for path in paths)], at_end=True)
    if running:
        if cached:  # whether the pictures are there already is only known then
            context.meter.expect(expected(planned, None))
            find_hashes(planned[0], context)
        announce(total(estimate(one, cache=context.cache) for one in planned))


def _named(plan: Plan, saving: Saving) -> list[Checkpoint]:
    """Return the bases whose hashes a written header names."""
    return [plan.source, *([plan.target] if output.holds_moved(plan, saving) else [])]


def _models(request: Request, memory: Memory) -> Models | None:
    """Return what runs the models, if the method does."""
    return (memory.models or diffusers_models(request.options)) if runs_models(request.options.method) else None


def _state(request: Request) -> Hashable:
    """Return a value that differs if a file or an option does. It always differs if a path is a folder."""
    paths: tuple[Path, ...] = (request.source.path, request.target.path, *(adapter.path for adapter in request.adapters))
    return request.options, request.running, tuple(stamp(path) if path.is_file() else object() for path in paths)


def _run(
    request: Request, planned: list[Plan], context: Context, state: Hashable, memory: Memory, *, survey: bool
) -> list[Moved]:
    if (last := memory.of(state, survey)) is not None:
        return last
    moved = run_all(planned, context, survey=survey)
    if not (survey and runs_models(request.options.method)):
        memory.keep(state, survey, moved)
    return moved
