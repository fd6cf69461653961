"""Analyses, transfers and writes adapters, for the tab, the API and the command line alike."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lorax.files import Staging
from lorax.models import check_all
from lorax.output import Naming
from lorax.progress import Progress, silent
from lorax.transfer import Cost, as_json, estimate, total
from lorax.workflow.destination import Claims, Destination, ReportFile
from lorax.workflow.memory import Memory
from lorax.workflow.passes import Pass, plans
from lorax.workflow.request import Request, Result


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
        work = Pass(request)
        if report:
            report.check(work.inputs)
        moved = work.run(progress, memory or Memory(), survey=True)
        results = [work.result(number, one) for number, one in enumerate(moved)]
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
        work, saving = Pass(request), destination.saving
        if report:
            report.check(work.inputs)
        claims = Claims(destination, work.inputs)
        paths = [claims.path(Naming.of(plan)) for plan in work.plans]
        if work.cost:
            announce(work.cost)
        moved = work.run(progress, memory or Memory())
        work.find_hashes(moved, saving, progress)
        results = [work.result(number, one, saving.strength) for number, one in enumerate(moved)]
        if report:
            report.stage(reports_of(results), staging)
        for number, (one, path) in enumerate(zip(moved, paths, strict=True)):
            progress(number, len(paths), f"writing {path.name}")
            results[number] = work.stage(number, one, path, staging, saving)
        progress(len(paths), len(paths), "")  # the last chance to stop before the files appear
    return results


def reports_of(results: Sequence[Result], *, with_files: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the report of one adapter as values of JSON, or a list for several; with the written files and the note if asked."""
    reports = [{"adapter": str(result.given)} | as_json(result.report) for result in results]
    if with_files:
        for report, result in zip(reports, results, strict=True):
            report |= {"written": [str(file) for file in result.files], "note": result.note}
    return reports[0] if len(reports) == 1 else reports
