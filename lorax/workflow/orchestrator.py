"""Analyses, transfers and writes adapters, for the tab, the API and the command line alike."""

from collections.abc import Callable, Sequence
from typing import Any

from lorax.files import Staging
from lorax.output import Naming
from lorax.progress import Progress, silent
from lorax.transfer import Cost, as_json
from lorax.workflow.destination import Claims, Destination, ReportFile
from lorax.workflow.memory import Memory
from lorax.workflow.passes import Pass
from lorax.workflow.request import Request, Result


def analyse(
    request: Request, progress: Progress = silent, memory: Memory | None = None, report: ReportFile | None = None
) -> list[Result]:
    """Do all but write, and measure the similarity of every layer. Models are not run: the report tells what would be done."""
    with Staging() as staging:
        work = Pass(request, progress, memory, survey=True)
        if report:
            report.check(work.inputs)
        results = [work.result(number, one) for number, one in enumerate(work.run())]
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
        work, saving = Pass(request, progress, memory), destination.saving
        claims = Claims(destination, work.inputs, report)
        paths = [claims.path(Naming.of(plan)) for plan in work.plans]
        work.prepare(paths, saving, announce)
        moved = work.run()
        work.find_hashes(moved, saving)
        results = [work.result(number, one, saving.strength) for number, one in enumerate(moved)]
        if report:
            report.stage(reports_of(results), staging)
        moved.reverse()
        for number, path in enumerate(paths):  # what is staged is needed no more
            results[number] = work.stage(number, moved.pop(), path, staging, saving)
        work.finish(paths[-1])
    return results


def reports_of(results: Sequence[Result], *, with_files: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the report of one adapter as values of JSON, or a list for several; with the written files and the note if asked."""
    reports = [{"adapter": str(result.given)} | as_json(result.report) for result in results]
    if with_files:
        for report, result in zip(reports, results, strict=True):
            report |= {"written": [str(file) for file in result.files], "note": result.note}
    return reports[0] if len(reports) == 1 else reports
