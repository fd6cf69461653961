"""The command line, ``python -m lorax``. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 2 bad input, 3 ``auto`` declined an adapter (see ``Report.declined``), 130 interrupted. A command writes all
its files at the end, or none; only the demo writes as it goes.
"""

import argparse
import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from lorax import __version__, demo
from lorax.arguments import to_captions, to_gigabytes, to_output, to_path, to_user_and_password, to_whole_number
from lorax.catalog import ListedFile
from lorax.errors import LoraxError, is_out_of_memory, printable
from lorax.files import Cache
from lorax.inspection import inspect
from lorax.options import Options, Running, Saving, declared, without_effect
from lorax.progress import Progress
from lorax.transfer import Cost, wording
from lorax.workflow import AtPath, Memory, ReportFile, Request, Result, analyse, reports_of, transfer

Declaration = TypeVar("Declaration", Options, Running, Saving)
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

    moving = argparse.ArgumentParser(add_help=False)
    moving.add_argument("loras", type=to_path, nargs="+", metavar="LORA", help="an adapter: a .safetensors file or a PEFT folder")
    moving.add_argument(
        "--source", type=to_path, required=True, metavar="BASE", help="the base that the adapters were trained on"
    )
    moving.add_argument("--target", type=to_path, required=True, metavar="BASE", help="the base to move them to")
    _add_options(moving, Options)
    _add_options(moving, Running)
    _add_cache(moving)
    moving.add_argument("--json", action="store_true", help="print the report as JSON; of several adapters, a list of reports")
    moving.add_argument("--report", type=to_output, metavar="FILE.json", help="also write the JSON there")

    command = commands.add_parser("transfer", parents=[moving], help="move adapters, in one pass over the bases, and write them")
    command.add_argument(
        "--output",
        type=to_output,
        metavar="FILE_OR_DIR",
        help="default: <adapter>-<target>.safetensors beside the adapter; <adapter>-lorax.safetensors for a LoRA-X file. "
        "For several adapters, a folder",
    )
    _add_options(command, Saving)
    command.set_defaults(command=_transfer)

    command = commands.add_parser("analyze", parents=[moving], help="show what a transfer would do; write no adapter")
    command.set_defaults(command=_analyze, overwrite=False)

    command = commands.add_parser("inspect", help="say what a checkpoint or an adapter is")
    command.add_argument("file", type=to_path)
    command.add_argument("--json", action="store_true")
    command.set_defaults(command=_inspect)

    command = commands.add_parser("serve", help="open the tab on a folder of checkpoints and LoRAs, without a WebUI")
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
    _add_cache(command)
    command.set_defaults(command=_serve)

    command = commands.add_parser("demo", help="move a LoRA between the bundled models and draw what it does")
    command.add_argument("--output", type=to_path, default=Path("demo-output"), metavar="DIR")
    command.set_defaults(command=_demo)
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=to_path, metavar="DIR", help="keep what is found of the bases there, and what refine goes on from"
    )
    parser.add_argument("--cache-size", type=to_gigabytes, default=8, metavar="GB", help="of --cache (default: %(default)s)")


def _add_options(parser: argparse.ArgumentParser, declaration: type) -> None:
    for option in declared(declaration):
        if option.kind is bool:
            parser.add_argument(option.flag, action="store_true", help=option.help)
            continue
        default = "" if option.default in (None, "", ()) else " (default: %(default)s)"
        parser.add_argument(
            option.flag,
            type=to_captions if option.lines else to_whole_number if option.kind is int else option.kind,
            choices=option.choices,
            default=option.default,
            metavar=option.example,
            help=option.described.replace("%", "%%") + default,
        )


def _chosen(options: argparse.Namespace, declaration: type[Declaration]) -> Declaration:
    return declaration(**{field.name: getattr(options, field.name) for field in dataclasses.fields(declaration)})


def _transfer(options: argparse.Namespace) -> int:
    request, saving = _request(options), _chosen(options, Saving)
    destination = AtPath(options.output, saving)

    def announce(cost: Cost) -> None:
        print(f"{request.options.method} takes {wording.cost_words(cost)}, or less", file=sys.stderr)

    with progress_bar() as progress:
        results = transfer(request, destination, progress, Memory(_cache(options)), _report_file(options), announce)
    if options.json and any(result.report.declined or result.files for result in results):
        _print_json(reports_of(results, with_files=True))
    code = 0
    for result in results:
        if result.report.declined and not result.files:
            code = EXIT_DECLINED
            text = f"{_head(result, results)}declined, no adapter was written: {wording.refusal(result.report)}"
            print(text, file=sys.stderr)
        elif result.files and not options.json:
            print(_head(result, results) + wording.summary(result.report))
            print("\n".join([*(f"wrote {file}" for file in result.files), *filter(None, [result.note])]))
    for result in results:
        if not result.files and not result.report.declined:
            raise LoraxError(wording.nothing_moved(result.file, result.report))
    return code


def _analyze(options: argparse.Namespace) -> int:
    with progress_bar() as progress:
        results = analyse(_request(options), progress, Memory(_cache(options)), _report_file(options))
    if options.json:
        _print_json(reports_of(results))
    for result in results:
        if not options.json:
            head = filter(None, [_head(result, results)])
            print("\n".join([*head, wording.table(result.report), "", wording.summary(result.report)]))
        if result.report.declined:
            print(f"{_head(result, results)}a transfer would be declined: {wording.refusal(result.report)}", file=sys.stderr)
    return EXIT_DECLINED if any(result.report.declined for result in results) else 0


def _inspect(options: argparse.Namespace) -> int:
    found = inspect(options.file)
    if options.json:
        _print_json(found)
    else:
        print("\n".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in found.items()))
    return 0


def _serve(options: argparse.Namespace) -> int:
    try:
        from lorax.serve import Access, serve
    except ModuleNotFoundError as error:
        raise LoraxError(f"the tab needs {error.name}. Install its packages with: pip install -e .[serve]") from error

    access = Access(tuple(options.allow_host), options.auth)
    serve(options.models, options.address, options.port, _cache(options), access)
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        for line in demo.run(options.output):
            print(line, flush=True)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise LoraxError(f"the demo needs {package}. Install its packages with: pip install -e .[demo]") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"see {options.output} for what was made so far") from None
    return 0


def _request(options: argparse.Namespace) -> Request:
    """Return the request, and print a note about each option that has no effect."""
    loras = [ListedFile(path.name, path) for path in options.loras]
    source, target = (ListedFile(path.name, path) for path in (options.source, options.target))
    request = Request(source, target, loras, _chosen(options, Options), _chosen(options, Running))
    for option in without_effect(request.options, request.running):
        print(f"note: {option.flag} has no effect with --method {request.options.method}", file=sys.stderr)
    return request


def _head(result: Result, results: Sequence[Result]) -> str:
    """Return the beginning of a text about one adapter: its file, if there are several."""
    return f"{result.file}: " if len(results) > 1 else ""


def _report_file(options: argparse.Namespace) -> ReportFile | None:
    return ReportFile(options.report, options.overwrite) if options.report else None


def _cache(options: argparse.Namespace) -> Cache | None:
    return Cache(options.cache, int(options.cache_size * 1e9), 0) if options.cache else None


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on a terminal, with what is done now and how long it will take."""
    with tqdm(file=sys.stderr, disable=None, bar_format="{desc} |{bar}| {elapsed}") as bar:

        def show(done: int, total: int, text: str) -> None:
            bar.total = total
            bar.set_description_str(text, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield show


def _print_json(value: dict | list[dict]) -> None:
    print(json.dumps(value, indent=2))
