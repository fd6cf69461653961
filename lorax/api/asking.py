"""What a request asks of the host: files by their names in the lists, and options with the host's own defaults."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from lorax.api.bodies import LoraxAnalysis, LoraxAsked, LoraxBatch, LoraxTransfer, LoraxVerdicts, LoraxWritten
from lorax.catalog import ListedFile
from lorax.devices import pick_device
from lorax.errors import LoraxError, printable
from lorax.hosts.base import Host, placed
from lorax.options import Batching, Options, Running, Saving, declared, without_effect
from lorax.workflow import FILTERS, SORTS, Batch, InFolder, Item, Overview, Request, Verdicts

T = TypeVar("T")
PREFIX = "/lorax/v1"
LONGEST_TEXT = 4096  # letters of each text of a request
LONGEST_LIST = 10_000  # entries of each list; outcomes of a batch
MOST_VERDICTS = 100  # adapters of a request for verdicts, which is no job and reads a part of each
MOST_TOLD = 5  # errors of a request
LIBRARY = ("target", "only", "search", "sort", "offset", "limit")


def request_of(host: Host, asked: LoraxAnalysis) -> Request:
    """Return the request for an analysis or a transfer. Raises HTTPException if it names what is not there."""
    with _refusing():
        options, running = _options(host, asked)
        bases, adapters = host.bases(), host.adapters()
        source, target = _named(bases, asked.source, "base"), _named(bases, asked.target, "base")
        return Request(source, target, [_named(adapters, name, "adapter") for name in asked.adapters], options, running)


def batch_of(host: Host, asked: LoraxBatch) -> Batch:
    """Return the batch. Raises HTTPException if it names what is not there."""
    with _refusing():
        options, running = _options(host, asked)
        bases, adapters = host.bases(), host.adapters()
        sources = [_named(bases, item.source, "base") if item.source else None for item in asked.items]
        given = [_named(adapters, item.adapter, "adapter") for item in asked.items]
        items = [Item(adapter, source) for adapter, source in zip(given, sources, strict=True)]
        targets = [_named(bases, name, "base") for name in asked.targets]
        if (count := len(items) * len(targets)) > LONGEST_LIST:
            raise LoraxError(f"items and targets make {count} transfers; at most {LONGEST_LIST} are allowed.")
        return Batch(items, targets, list(bases.values()), options, running, _chosen(host, Batching, asked.batching))


def destination_of(host: Host, asked: LoraxWritten) -> InFolder:
    """Return the destination of what is written. Raises HTTPException if it is not valid."""
    with _refusing():
        saving = _chosen(host, Saving, asked.saving)
        if isinstance(asked, LoraxTransfer) and asked.name:
            saving = replace(saving, name=asked.name)
        return InFolder(host.adapter_folder, asked.subfolder, saving, host.prompt_names)


def verdicts_of(host: Host, asked: LoraxVerdicts) -> tuple[list[ListedFile], ListedFile, ListedFile | None, list[ListedFile]]:
    """Return the files that are asked about: the adapters, the target, the source if it is given, and all bases."""
    with _refusing():
        _check_lengths(_as_dict(asked))
        if (count := len(asked.adapters)) > MOST_VERDICTS:
            raise LoraxError(f"adapters: {count} entries; at most {MOST_VERDICTS} are allowed. See also {PREFIX}/library.")
    bases, adapters = host.bases(), host.adapters()
    source = _named(bases, asked.source, "base") if asked.source else None
    named = [_named(adapters, name, "adapter") for name in asked.adapters]
    return named, _named(bases, asked.target, "base"), source, list(bases.values())


def overview_of(host: Host, verdicts: Verdicts, query: Mapping[str, str]) -> Overview:
    """Return what a question about the library asks for. Raises HTTPException if it has a parameter that there is not."""
    if unknown := sorted(query.keys() - LIBRARY):
        raise HTTPException(422, f"{unknown[0][:40]!r}: no such parameter. There are {', '.join(LIBRARY)}.")
    with _refusing():
        _check_lengths(dict(query))
        for name, known in (("only", ["", *FILTERS]), ("sort", [*SORTS])):
            if query.get(name, known[0]) not in known:
                raise LoraxError(f"{name}: {query[name]!r}; expected one of {', '.join(filter(None, known))}.")
    bases = host.bases()
    return Overview(verdicts, host.adapters().values(), _named(bases, query["target"], "base"), bases.values())


def in_a_sentence(error: RequestValidationError) -> str:
    """Return what is wrong with a request: the fields, by the first few errors, and what was expected of each."""
    wrong = error.errors()
    told = (f"{'.'.join(str(part)[:40] for part in one['loc'][1:]) or 'the body'}: {one['msg']}" for one in wrong[:MOST_TOLD])
    more = f"; and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
    return printable("; ".join(told) + more)


def of_no_effect(asked: LoraxAsked, options: Options, running: Running) -> str:
    """Return a sentence about the options that were asked for and have no effect, or nothing."""
    given = _given(asked.options) | _given(asked.running)
    unused = [one.name for one in without_effect(options, running) if one.name in given]
    return f"No effect with method {options.method}: {', '.join(unused)}." if unused else ""


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except LoraxError as error:
        raise HTTPException(422, str(error)) from error


def _check_lengths(value: Any, where: str = "the request") -> None:
    """Raise LoraxError if a text or a list anywhere in a request is longer than is allowed."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise LoraxError(f"{where}: {len(value)} letters; at most {LONGEST_TEXT} are allowed.")
    if isinstance(value, (list, tuple)) and len(value) > LONGEST_LIST:
        raise LoraxError(f"{where}: {len(value)} entries; at most {LONGEST_LIST} are allowed.")
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ():
        _check_lengths(part, name if isinstance(name, str) else f"{where}, number {name + 1}")


def _as_dict(asked: BaseModel) -> Any:
    return asked.model_dump() if hasattr(asked, "model_dump") else asked.dict()  # pydantic 2 and 1


def _options(host: Host, asked: LoraxAsked) -> tuple[Options, Running]:
    _check_lengths(_as_dict(asked))
    options = placed(host, _chosen(host, Options, asked.options))
    pick_device(options.device)  # raises LoraxError, which is better told now than after the jobs before this one
    return options, _chosen(host, Running, asked.running)


def _chosen(host: Host, declaration: type[T], asked: BaseModel) -> T:
    """Return the requested options; for those that are not given, the defaults that the user has set in the host."""
    preset = host.defaults()
    usual = {one.name: one.parse(preset[one.name]) for one in declared(declaration) if one.name in preset}
    return declaration(**vars(asked) | usual | {name: getattr(asked, name) for name in _given(asked)})


def _given(asked: BaseModel) -> set[str]:
    """Return the names of the fields that a request gives."""
    return asked.model_fields_set if hasattr(asked, "model_fields_set") else asked.__fields_set__  # pydantic 2 and 1


def _named(models: dict[str, ListedFile], name: str, kind: str) -> ListedFile:
    if name not in models:
        raise HTTPException(404, f"No {kind} {name!r}. See {PREFIX}/{kind}s for the names.")
    return models[name]
