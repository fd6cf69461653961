"""The command line, ``python -m lorax``. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 2 bad input, 3 ``auto`` declined an adapter (see ``Report.declined``), 130 interrupted. A command writes all
its files at the end, or none; only the demo and a batch write as they go. Of a batch, the worst end counts.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from lorax import __version__, demo
from lorax.arguments import Captions, add_cache, add_library, add_moving, cache_of, chosen, to_path, to_user_and_password
from lorax.catalog import ListedFile
from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError, is_out_of_memory, printable
from lorax.files import Inputs, check_free
from lorax.hosts.standalone import Standalone
from lorax.inspection import inspect
from lorax.options import Batching, Options, Running, Saving, without_effect
from lorax.progress import Progress
from lorax.transfer import Cost, wording
from lorax.workflow import (
    COARSE,
    FILTERS,
    SORTS,
    AtPath,
    Batch,
    End,
    Item,
    Memory,
    Overview,
    ReportFile,
    Request,
    Result,
    Verdicts,
    analyse,
    batch,
    counted,
    outcome_as_json,
    reports_of,
    row_as_json,
    selected,
    table,
    transfer,
)

EXIT_BAD_INPUT, EXIT_DECLINED, EXIT_INTERRUPTED = 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8, or a terminal that is not
    try:
        options = _parser().parse_args(arguments)
        return int(options.command(options))
    except (LoraxError, OSError) as error:  # OSError: a full disk, a folder without permission
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print("error: not enough memory. Nothing was written. Close other programs.", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:  # its text may tell what was written
        print("; ".join(filter(None, ["interrupted", str(interrupt)])), file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorax", description="Move a LoRA from one base checkpoint to another.")
    parser.add_argument("--version", action="version", version=f"lorax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    transferring, analyzing = add_moving(commands)
    transferring.set_defaults(command=_transfer)
    analyzing.set_defaults(command=_analyze, overwrite=False)

    command = commands.add_parser("inspect", help="say what a checkpoint or an adapter is")
    command.add_argument("file", type=to_path)
    command.add_argument("--json", action="store_true")
    command.set_defaults(command=_inspect)

    add_library(commands, FILTERS, SORTS).set_defaults(command=_library)

    command = commands.add_parser("serve", help="serve the tab on a folder of checkpoints and LoRAs, without a WebUI")
    command.add_argument("--models", type=to_path, required=True, metavar="DIR", help="checkpoints and LoRAs, at any depth")
    command.add_argument("--address", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    command.add_argument("--port", type=int, default=7862, help="(default: %(default)s)")
    command.add_argument(
        "--auth", type=to_user_and_password, metavar="USER:PASSWORD", help="asked for by every page; use it with --address"
    )
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which the server may be called besides its address, such as a proxy's; may be given again",
    )
    add_cache(command)
    command.set_defaults(command=_serve)

    command = commands.add_parser("demo", help="move a LoRA between the bundled models and draw what it does")
    command.add_argument("--output", type=to_path, default=Path("demo-output"), metavar="DIR")
    command.set_defaults(command=_demo)
    return parser


def _transfer(options: argparse.Namespace) -> int:
    destination = AtPath(options.output, chosen(options, Saving))
    _check_output(options)

    def announce(cost: Cost) -> None:
        print(f"{options.method} takes {wording.cost_words(cost)}, or less", file=sys.stderr)

    if len(options.target) > 1 or options.models or options.skip_existing:
        return _batch(options, destination, announce)
    request = _request(options, options.target[0])
    with progress_bar() as progress:
        results = transfer(request, destination, progress, Memory(cache_of(options)), _report_file(options), announce)
    if options.json and any(result.report.declined or result.files for result in results):
        _print_json(reports_of(results, with_files=True))
    code = 0
    for result in results:
        if result.report.declined and not result.files:
            code = EXIT_DECLINED
            text = f"{_head(result, results)}declined, no adapter was written: {wording.refusal_in_terminal(result.report)}"
            _say(text, sys.stderr)
        elif result.files and not options.json:
            _say(_head(result, results) + wording.summary(result.report))
            _say("\n".join([*(f"wrote {file}" for file in result.files), *filter(None, [result.note])]))
    for result in results:
        if not result.files and not result.report.declined:
            raise LoraxError(wording.nothing_moved(result.file, result.report))
    return code


def _batch(options: argparse.Namespace, destination: AtPath, announce: Callable[[Cost], None]) -> int:
    source = _listed(options.source) if options.source else None
    bases = Standalone(options.models, cache_of(options)).bases().values() if options.models else ()
    asked = Batch(
        [Item(_listed(lora), source) for lora in options.loras],
        [_listed(target) for target in options.target],
        [replace(base, name=str(base.path)) for base in bases],
        *_checked(options),
        chosen(options, Batching),
    )
    with progress_bar() as progress:
        outcomes = batch(asked, destination, progress, Memory(cache_of(options)), _report_file(options), announce)
    if options.json:
        _print_json([outcome_as_json(one) for one in outcomes])
    else:
        _say(table(outcomes))
        for one in outcomes:
            if one.result and one.result.note:
                _say(f"{one.path}: {one.result.note}")
    ends = {one.end for one in outcomes}
    if End.STOPPED in ends:
        return EXIT_INTERRUPTED
    if ends & {End.FAILED, End.UNMOVED}:
        return EXIT_BAD_INPUT
    return EXIT_DECLINED if End.DECLINED in ends else 0


def _check_output(options: argparse.Namespace) -> None:
    """Raise LoraxError if --output names a file, and there is more than one to write, or --name names it too."""
    if options.output is None or options.output.is_dir():
        return
    if (count := len(options.loras) * len(options.target)) > 1:
        raise LoraxError(f"{options.output}: not a folder, which --output must be for {count} adapters. Create it first.")
    if options.name:
        raise LoraxError(f"{options.output}: not a folder, which --output must be beside --name. Create it first.")


def _analyze(options: argparse.Namespace) -> int:
    with progress_bar() as progress:
        results = analyse(_request(options, options.target), progress, Memory(cache_of(options)), _report_file(options))
    if options.json:
        _print_json(reports_of(results))
    for result in results:
        if not options.json:
            head = filter(None, [_head(result, results)])
            _say("\n".join([*head, wording.table(result.report), "", wording.summary(result.report)]))
        if result.report.declined:
            text = f"a transfer would be declined: {wording.refusal_in_terminal(result.report)}"
            _say(f"{_head(result, results)}{text}", sys.stderr)
    return EXIT_DECLINED if any(result.report.declined for result in results) else 0


def _inspect(options: argparse.Namespace) -> int:
    found = inspect(options.file)
    if options.json:
        _print_json(found)
    else:
        _say("\n".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in found.items()))
    return 0


def _library(options: argparse.Namespace) -> int:
    host, target = Standalone(options.models, cache_of(options)), _listed(options.target)
    open_checkpoint(target.path)  # a target that is none is not the fault of each adapter
    asked = Overview(Verdicts(host.cache()), host.adapters().values(), target, host.bases().values(), options.closely)
    with progress_bar() as progress:
        rows = list(asked.rows(progress))
    shown = selected(rows, options.only, options.search, options.sort)
    if options.json:
        _print_json([{**row_as_json(row), "path": str(row.adapter.path)} for row in shown])
        return 0
    if shown:
        _say(wording.columns([("LoRA", "", ""), *((row.adapter.name, row.group.words, row.words) for row in shown)]))
    print(f"{len(shown)} of {len(rows)} LoRAs. {counted(rows)}")
    if not options.closely:
        print(f"note: {COARSE} --closely does that.", file=sys.stderr)
    return 0


def _serve(options: argparse.Namespace) -> int:
    try:
        from lorax.serve import Access, serve
    except ModuleNotFoundError as error:
        raise LoraxError(f"the tab needs {error.name}. Install its packages with: pip install -e '.[serve]'") from error

    access = Access(tuple(options.allow_host), options.auth)
    serve(options.models, options.address, options.port, cache_of(options), access)
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        for line in demo.run(options.output):
            print(line, flush=True)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise LoraxError(f"the demo needs {package}. Install its packages with: pip install -e '.[demo]'") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"see {options.output} for what was made so far") from None
    return 0


def _request(options: argparse.Namespace, target: Path) -> Request:
    loras = [ListedFile(path.name, path) for path in options.loras]
    return Request(_listed(options.source), _listed(target), loras, *_checked(options))


def _checked(options: argparse.Namespace) -> tuple[Options, Running]:
    """Return the options of the transfer, and print a note about each that has no effect."""
    moving, running = chosen(options, Options), chosen(options, Running)
    for option in without_effect(moving, running):
        print(f"note: {option.flag} has no effect with --method {moving.method}", file=sys.stderr)
    return moving, running


def _listed(path: Path) -> ListedFile:
    return ListedFile(str(path), path)


def _head(result: Result, results: Sequence[Result]) -> str:
    """Return the beginning of a text about one adapter: its file, if there are several."""
    return f"{result.file}: " if len(results) > 1 else ""


def _report_file(options: argparse.Namespace) -> ReportFile | None:
    """Return the file for the report, if one is asked for. Raises LoraxError if it would replace the captions."""
    if options.report and isinstance(options.captions, Captions):
        check_free(options.report, Inputs([options.captions.file]), options.overwrite, "--report")
    return ReportFile(options.report, options.overwrite) if options.report else None


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on a terminal, with what is done now and how long it will take."""
    with tqdm(file=sys.stderr, disable=None, bar_format="{desc} |{bar}| {elapsed}") as bar:

        def show(done: int, total: int, text: str) -> None:
            bar.total = total
            bar.set_description_str(printable(text), refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield show


def _say(text: str, file: TextIO | None = None) -> None:
    """Print a text that may quote a stranger's file, without what a terminal would obey. ``file``: by default stdout."""
    print(printable(text), file=file)


def _print_json(value: dict | list[dict]) -> None:
    print(json.dumps(value, indent=2))
