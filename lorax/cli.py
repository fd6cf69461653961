"""``python -m lorax``: results on stdout, progress and errors on stderr.

Exit codes: 0 done, 2 bad input, 3 ``auto`` declined an adapter (see ``Report.declined``), 130 interrupted. What a command writes
appears at its end, all or nothing; only the demo writes as it goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from lorax import __version__, demo
from lorax.checkpoint.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.files.cache import Cache
from lorax.files.staging import Staging, check_folder, check_free
from lorax.formats import open_adapter
from lorax.inspection import inspect
from lorax.methods import BEHAVIOURAL
from lorax.models.captions import read as read_captions
from lorax.options import Options, Running, Saving, declared
from lorax.output import plain_lora, writing
from lorax.transfer.cost import estimate, total
from lorax.transfer.planning import Moved, Plan, Progress, plan_all
from lorax.transfer.running import run_all

Declaration = TypeVar("Declaration", Options, Running, Saving)
EXIT_BAD_INPUT, EXIT_DECLINED, EXIT_INTERRUPTED = 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = _parser().parse_args(arguments)
        return int(options.command(options))
    except (LoraxError, OSError) as error:  # OSError: a full disk, a folder without permission
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:  # it carries words where it is known what was written
        print("; ".join(filter(None, ["interrupted", str(interrupt)])), file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorax", description="Move a LoRA from one base checkpoint to another.")
    parser.add_argument("--version", action="version", version=f"lorax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    moving = argparse.ArgumentParser(add_help=False)
    moving.add_argument("loras", type=Path, nargs="+", metavar="LORA", help="an adapter: a .safetensors file or a PEFT folder")
    moving.add_argument("--source", type=Path, required=True, metavar="BASE", help="the base that the adapters were trained on")
    moving.add_argument("--target", type=Path, required=True, metavar="BASE", help="the base to move them to")
    _add_options(moving, Options)
    _add_options(moving, Running)
    _add_cache(moving)
    moving.add_argument("--json", action="store_true", help="print the report as JSON; of several adapters, a list of reports")
    moving.add_argument("--report", type=_file_or_folder, metavar="FILE.json", help="also write the JSON there")

    command = commands.add_parser("transfer", parents=[moving], help="move adapters, in one pass over the bases, and write them")
    command.add_argument(
        "--output",
        type=_file_or_folder,
        metavar="FILE_OR_DIR",
        help="default: <adapter>-<target>.safetensors beside the adapter; <adapter>-lorax.safetensors for a LoRA-X file. "
        "For several adapters, a folder",
    )
    _add_options(command, Saving)
    command.set_defaults(command=_transfer)

    command = commands.add_parser("analyze", parents=[moving], help="show what a transfer would do; write no adapter")
    command.set_defaults(command=_analyze, overwrite=False)

    command = commands.add_parser("inspect", help="say what a checkpoint or an adapter is")
    command.add_argument("file", type=Path)
    command.add_argument("--json", action="store_true")
    command.set_defaults(command=_inspect)

    command = commands.add_parser("serve", help="open the tab on a folder of checkpoints and LoRAs, without a WebUI")
    command.add_argument("--models", type=Path, required=True, metavar="DIR", help="checkpoints and LoRAs, at any depth")
    command.add_argument("--address", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    command.add_argument("--port", type=int, default=7862, help="(default: %(default)s)")
    _add_cache(command)
    command.set_defaults(command=_serve)

    command = commands.add_parser("demo", help="move a LoRA between the bundled models and draw what it does")
    command.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR")
    command.set_defaults(command=_demo)
    return parser


def _file_or_folder(text: str) -> Path:
    """A path to write to. ``Path`` forgets the slash at the end, which says that a folder is meant."""
    path = Path(text)
    if text.endswith(("/", os.sep)) and not path.is_dir():
        raise LoraxError(f"{text}: no such folder. Create it, or leave the slash at the end out if a file is meant.")
    return path


def _read_captions(text: str) -> tuple[str, ...]:
    return read_captions(Path(text))


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep what is found of the bases there, and what refine goes on from"
    )
    parser.add_argument("--cache-size", type=float, default=8, metavar="GB", help="of --cache (default: %(default)s)")


def _add_options(parser: argparse.ArgumentParser, declaration: type) -> None:
    for option in declared(declaration):
        if option.kind is bool:
            parser.add_argument(option.flag, action="store_true", help=option.help)
            continue
        default = "" if option.default in (None, "", ()) else " (default: %(default)s)"
        parser.add_argument(
            option.flag,
            type=_read_captions if option.lines else option.kind,
            choices=option.choices,
            default=option.default,
            metavar=option.example,
            help=option.described.replace("%", "%%") + default,
        )


def _chosen(options: argparse.Namespace, declaration: type[Declaration]) -> Declaration:
    return declaration(**{field.name: getattr(options, field.name) for field in dataclasses.fields(declaration)})


def _transfer(options: argparse.Namespace) -> int:
    saving, written = _chosen(options, Saving), []
    with Staging() as staging:
        planned = _plan(options)
        paths = _paths(planned, options.output, saving)
        moved = _run(planned, options)
        _stage_report(options, planned, moved, staging)
        for one, made, path in zip(planned, moved, paths, strict=True):
            written.append(writing.stage(one, made, path, staging, saving))
    notes = [writing.note(one, made, saving) for one, made in zip(planned, moved, strict=True)]
    if options.json and any(made.report.declined or files for made, files in zip(moved, written, strict=True)):
        more = [{"written": [str(file) for file in files], "note": note} for files, note in zip(written, notes, strict=True)]
        _print_json(_alone([report | one for report, one in zip(_reports(planned, moved), more, strict=True)]))
    code = 0
    for one, made, files, note in zip(planned, moved, written, notes, strict=True):
        if made.report.declined and not files:
            code = EXIT_DECLINED
            print(f"{_head(one, planned)}declined, no adapter was written: {made.report.refusal}", file=sys.stderr)
        elif files and not options.json:
            print(_head(one, planned) + made.report.summary())
            print("\n".join([*(f"wrote {file}" for file in files), *filter(None, [note])]))
    for one, made, files in zip(planned, moved, written, strict=True):
        if not files and not made.report.declined:
            plain_lora.check_any(one, made)
    return code


def _paths(planned: list[Plan], chosen: Path | None, saving: Saving) -> list[Path]:
    """Where the adapters go, all of it free. Raises LoraxError where it is not."""
    if len(planned) > 1 and chosen is not None and not chosen.is_dir():
        raise LoraxError(f"{chosen}: not a folder, which --output must be for {len(planned)} adapters. Create it first.")
    paths = [writing.path_of(one, chosen, saving) for one in planned]
    if twice := next((path for number, path in enumerate(paths) if path in paths[:number]), None):
        raise LoraxError(f"{twice}: the name that two of the adapters get. Rename one of them, or move them one at a time.")
    inputs = [path for one in planned for path in one.inputs]
    for path in paths:
        check_folder(path)
        check_free(path, inputs, saving.overwrite)
    return paths


def _head(one: Plan, planned: list[Plan]) -> str:
    """What a text about one adapter begins with, where there are several."""
    return f"{one.adapter.path}: " if len(planned) > 1 else ""


def _analyze(options: argparse.Namespace) -> int:
    with Staging() as staging:
        planned = _plan(options)
        moved = _run(planned, options, survey=True)
        _stage_report(options, planned, moved, staging)
    if options.json:
        _print_json(_alone(_reports(planned, moved)))
    for one, made in zip(planned, moved, strict=True):
        if not options.json:
            print("\n".join([*filter(None, [_head(one, planned)]), made.report.table(), "", made.report.summary()]))
        if made.report.declined:
            print(f"{_head(one, planned)}a transfer would be declined: {made.report.refusal}", file=sys.stderr)
    return EXIT_DECLINED if any(made.report.declined for made in moved) else 0


def _inspect(options: argparse.Namespace) -> int:
    found = inspect(options.file)
    if options.json:
        _print_json(found)
    else:
        print("\n".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in found.items()))
    return 0


def _serve(options: argparse.Namespace) -> int:
    try:
        from lorax.serve import serve
    except ModuleNotFoundError as error:
        raise LoraxError(f"the tab needs {error.name}. Install its packages with: pip install -e .[serve]") from error

    serve(options.models, options.address, options.port, _cache(options))
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


def _plan(options: argparse.Namespace) -> list[Plan]:
    chosen = _chosen(options, Options)
    adapters, source = [open_adapter(lora) for lora in options.loras], open_checkpoint(options.source)
    same = options.source.resolve() == options.target.resolve()
    target = source if same else open_checkpoint(options.target)
    if options.report:
        check_folder(options.report, "--report")
        inputs = (source.path, target.path, *(adapter.path for adapter in adapters))
        check_free(options.report, inputs, options.overwrite, "--report")
    return plan_all(adapters, source, target, chosen, _chosen(options, Running))


def _run(planned: list[Plan], options: argparse.Namespace, survey: bool = False) -> list[Moved]:
    if (method := planned[0].options.method) in BEHAVIOURAL and not survey:
        print(f"{method} takes {total(estimate(one) for one in planned).words}, or less", file=sys.stderr)
    with tqdm(unit="layer", file=sys.stderr, disable=None) as bar:
        return run_all(planned, _progress(bar), _cache(options), survey=survey)


def _cache(options: argparse.Namespace) -> Cache | None:
    return Cache(options.cache, int(options.cache_size * 1e9), 0) if options.cache else None


def _progress(bar: tqdm) -> Progress:
    def show(done: int, total: int, name: str) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def _stage_report(options: argparse.Namespace, planned: list[Plan], moved: list[Moved], staging: Staging) -> None:
    if options.report:
        text = json.dumps(_alone(_reports(planned, moved)), indent=2)
        staging.add(options.report).write_text(text, encoding="utf-8")


def _reports(planned: list[Plan], moved: list[Moved]) -> list[dict]:
    return [{"adapter": str(one.adapter.given)} | made.report.as_json() for one, made in zip(planned, moved, strict=True)]


def _alone(reports: list[dict]) -> dict | list[dict]:
    """One report as it is, several as a list."""
    return reports[0] if len(reports) == 1 else reports


def _print_json(value: dict | list[dict]) -> None:
    print(json.dumps(value, indent=2))
