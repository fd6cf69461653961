"""The routes of the API."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Query
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from lorax.api.asking import (
    PREFIX,
    batch_of,
    destination_of,
    in_a_sentence,
    of_no_effect,
    overview_of,
    request_of,
    verdicts_of,
)
from lorax.api.bodies import (
    LoraxAdapter,
    LoraxAnalysis,
    LoraxBase,
    LoraxBatch,
    LoraxJob,
    LoraxLibrary,
    LoraxTransfer,
    LoraxVerdict,
    LoraxVerdicts,
)
from lorax.api.jobs import begin, found, shown
from lorax.catalog import ListedFile, Record, facts, record
from lorax.checkpoint import families
from lorax.files import as_utf8
from lorax.guard import READING, Refused, check_body
from lorax.hosts.base import Host
from lorax.progress import Progress
from lorax.transfer import Verdict, as_json
from lorax.transfer.verdict_words import words
from lorax.workflow import (
    COARSE,
    SORTS,
    Memory,
    Outcome,
    Result,
    Verdicts,
    analyse,
    batch,
    counts,
    outcome_as_json,
    row_as_json,
    selected,
    transfer,
)


class CheckedRoute(APIRoute):
    """A route that reads no body which is not JSON of bounded size, and says in a sentence what is wrong with one.

    FastAPI's own answer repeats what was sent, and fails for what JSON or UTF-8 cannot hold.
    """

    def get_route_handler(self) -> Callable[[HttpRequest], Any]:
        handle = super().get_route_handler()

        async def checked(request: HttpRequest) -> Any:
            try:
                if request.method not in READING:
                    check_body(request.headers)
            except Refused as refused:
                raise HTTPException(refused.status, refused.reason) from refused
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise HTTPException(422, in_a_sentence(error)) from error

        return checked


def router(host: Host) -> APIRouter:
    """Make the routes for a host."""
    api = APIRouter(prefix=PREFIX, tags=["LoRA-X"], route_class=CheckedRoute)
    memory = Memory(host.cache(), host.models())

    _add_reading(api, host)

    @api.post("/analyse", response_model=LoraxJob, status_code=202)
    def analyse_job(asked: LoraxAnalysis) -> Any:
        request = request_of(host, asked)
        unused = of_no_effect(asked, request.options, request.running)
        return begin(host, lambda progress: [_result(host, one, unused, {}) for one in analyse(request, progress, memory)])

    @api.post("/transfer", response_model=LoraxJob, status_code=202)
    def transfer_job(asked: LoraxTransfer) -> Any:
        request, destination = request_of(host, asked), destination_of(host, asked)
        unused = of_no_effect(asked, request.options, request.running)

        def work(progress: Progress) -> list[dict[str, Any]]:
            results = transfer(request, destination, progress, memory)
            names = _listed_anew(host)
            return [_result(host, one, unused, names) for one in results]

        return begin(host, work)

    @api.post("/batch", response_model=LoraxJob, status_code=202)
    def batch_job(asked: LoraxBatch) -> Any:
        several, destination = batch_of(host, asked), destination_of(host, asked)
        unused = of_no_effect(asked, several.options, several.running)

        def work(progress: Progress) -> list[dict[str, Any]]:
            outcomes = batch(several, destination, progress, memory)
            names = _listed_anew(host)
            return [_outcome(host, one, unused, names) for one in outcomes]

        return begin(host, work)

    @api.get("/jobs/{id}", response_model=LoraxJob)
    def job(id: str) -> Any:
        return shown(found(host, id))

    @api.post("/jobs/{id}/cancel", response_model=LoraxJob)
    def cancel(id: str) -> Any:
        (job := found(host, id)).stop()
        return shown(job)

    return api


def _add_reading(api: APIRouter, host: Host) -> None:
    """Add the routes that answer at once, without a job."""
    verdicts = Verdicts(host.cache(), host.models(), host.device())

    @api.post("/refresh")
    def refresh() -> dict[str, int]:
        """Look for files that have come or gone, and tell how many there are."""
        host.refresh()
        return {"bases": len(host.bases()), "adapters": len(host.adapters())}

    @api.get("/bases", response_model=list[LoraxBase])
    def bases() -> Any:
        loaded = host.loaded()
        return [_base(name, name == loaded, record(model.path)) for name, model in host.bases().items()]

    @api.get("/adapters", response_model=list[LoraxAdapter])
    def adapters() -> Any:
        return [LoraxAdapter(name=name, **vars(facts(model.path))) for name, model in host.adapters().items()]

    @api.post("/verdict", response_model=list[LoraxVerdict])
    def verdict(asked: LoraxVerdicts) -> Any:
        adapters, target, source, bases = verdicts_of(host, asked)
        found = verdicts.of_all(adapters, target, source, bases)
        return [_verdict(adapter, one) for adapter, one in zip(adapters, found, strict=True)]

    @api.get("/library", response_model=LoraxLibrary)
    def library(
        request: HttpRequest,
        target: str,
        only: str = "",
        search: str = "",
        sort: str = next(iter(SORTS)),
        offset: int = Query(0, ge=0),
        limit: int = Query(100, ge=1, le=1000),
    ) -> Any:
        rows = list(overview_of(host, verdicts, request.query_params).rows())
        shown = selected(rows, only, search, sort)
        page = [row_as_json(row) for row in shown[offset : offset + limit]]
        return _valid(LoraxLibrary, {"total": len(shown), "counts": counts(rows), "note": COARSE, "rows": page})


def _base(name: str, loaded: bool, known: Record) -> LoraxBase:
    family = families.of_name(known.family)
    title = family.title if family else known.unsupported
    return LoraxBase(name=name, loaded=loaded, family=title, supported=family is not None)


def _result(host: Host, result: Result, unused: str, names: Mapping[Path, str]) -> dict[str, Any]:
    report, note = as_json(result.report), _both(result.note, unused)
    return {"adapter": result.adapter.name, **_written(host, result.written, names), "report": report, "note": note}


def _outcome(host: Host, one: Outcome, unused: str, names: Mapping[Path, str]) -> dict[str, Any]:
    told = outcome_as_json(one)
    return told | {"file": _name(host, one.path), **_written(host, one.written, names), "note": _both(told["note"], unused)}


def _both(*notes: str) -> str:
    return " ".join(filter(None, notes))


def _listed_anew(host: Host) -> dict[Path, str]:
    """Have the host list its files anew; return the names of its adapters by file."""
    host.refresh()
    return {adapter.path: name for name, adapter in host.adapters().items()}


def _written(host: Host, file: Path | None, names: Mapping[Path, str]) -> dict[str, str | None]:
    """Return the file's name in the Lora folder, and the one by which the lists and requests know it."""
    return {"written": _name(host, file), "name": names.get(file) if file else None}


def _name(host: Host, file: Path | None) -> str | None:
    return file.relative_to(host.adapter_folder).as_posix() if file else None


def _verdict(adapter: ListedFile, found: Verdict) -> LoraxVerdict:
    actions = [{"do": one.do.value, "method": one.do.method, "seconds": one.seconds, "bytes": one.bytes} for one in found.actions]
    shown = {
        "adapter": adapter.name,
        "kind": found.kind.value,
        "words": words(found),
        "strength": found.strength,
        "actions": actions,
    }
    return _valid(LoraxVerdict, shown)


def _valid(model: Any, values: dict[str, Any]) -> Any:
    """Return the model of these values, with texts that UTF-8 can hold."""
    return model(**json.loads(as_utf8(json.dumps(values, ensure_ascii=False))))
