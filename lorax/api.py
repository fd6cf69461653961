"""The API for programs, ``/lorax/v1/``. Files have the names under which the host lists them, never paths; captions are texts.

It works with pydantic 1 and 2, and with the FastAPI of both hosts, which do not read postponed annotations.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, create_model

from lorax.catalog import ListedFile, facts
from lorax.errors import LoraxError
from lorax.files import as_utf8
from lorax.guard import READING, Refused, check_body
from lorax.hosts.base import Host
from lorax.hosts.jobs import Job, TooMany
from lorax.options import Options, Running, Saving, declared
from lorax.progress import Progress
from lorax.transfer import as_json
from lorax.workflow import InFolder, Memory, Request, Result, analyse, transfer

T = TypeVar("T")
PREFIX = "/lorax/v1"
LONGEST_TEXT = 4096  # letters of each text of a request
LONGEST_LIST = 10_000  # entries of each list
DEFAULTS = "What is not given is as the host's settings page says, and where that says nothing, as below"


class Strict(BaseModel):
    """A part of a request. What it does not know is refused and not ignored."""

    class Config:
        extra = "forbid"


def _model(name: str, declaration: type) -> Any:
    fields: dict[str, Any] = {}
    for option in declared(declaration):
        kind = option.kind if option.default is not None else option.kind | None
        fields[option.name] = kind, Field(option.default, description=option.described)
    return create_model(name, __base__=Strict, **fields)


OptionsModel = _model("LoraxOptions", Options)
RunningModel = _model("LoraxRunning", Running)
SavingModel = _model("LoraxSaving", Saving)


class LoraxBase(BaseModel):
    name: str
    loaded: bool


class LoraxAdapter(BaseModel):
    name: str
    rank: str
    format: str
    family: str
    trained_on: str = Field(
        description="File name of the base that the metadata names; where it names none, the kind that Civitai names"
    )
    trigger_words: str
    problem: str = Field(description="Why it cannot be moved, else empty")


class LoraxAnalysis(Strict):
    source: str = Field(description="Name of the base that the adapters were trained on, as /bases lists it")
    target: str = Field(description="Name of the base to move them to")
    adapters: list[str] = Field(description="Names as /adapters lists them")
    options: OptionsModel = Field(default_factory=OptionsModel, description=DEFAULTS)  # type: ignore[valid-type]
    running: RunningModel = Field(  # type: ignore[valid-type]
        default_factory=RunningModel, description=f"What bridge and refine have the bases draw. {DEFAULTS}"
    )


class LoraxTransfer(LoraxAnalysis):
    name: str = Field(
        "", description="Name of the written file; empty: the adapter's, with the target's; with lorax for a LoRA-X file"
    )
    subfolder: str = Field("", description="Inside the LoRA folder; empty: beside the adapter")
    saving: SavingModel = Field(default_factory=SavingModel, description=DEFAULTS)  # type: ignore[valid-type]


class LoraxJob(BaseModel):
    id: str
    state: str = Field(description="running (or waiting for the host's queue), done, failed or cancelled")
    done: int
    total: int
    text: str
    error: str
    results: list[dict[str, Any]] = Field(
        description="For each adapter: its name, the report, the written file's name, and a note on it"
    )


class CheckedRoute(APIRoute):
    """A route that reads no body which is not JSON of bounded size, whatever the host's FastAPI would make of it."""

    def get_route_handler(self) -> Callable[[HttpRequest], Any]:
        handle = super().get_route_handler()

        async def checked(request: HttpRequest) -> Any:
            try:
                if request.method not in READING:
                    check_body(request.headers)
            except Refused as refused:
                raise HTTPException(refused.status, refused.reason) from refused
            return await handle(request)

        return checked


def _shown(job: Job) -> LoraxJob:
    shown = {name: getattr(job, name) for name in ("id", "state", "done", "total", "text", "error")}
    shown["results"] = (job.outcome or []) if job.state == "done" else []
    return LoraxJob(**json.loads(as_utf8(json.dumps(shown, ensure_ascii=False))))


def router(host: Host) -> APIRouter:
    """Make the routes for a host."""
    api = APIRouter(prefix=PREFIX, tags=["LoRA-X"], route_class=CheckedRoute)
    memory = Memory(host.cache(), host.models())

    def begin(work: Callable[[Progress], list[Result]]) -> LoraxJob:
        try:
            return _shown(host.jobs.begin(host, lambda progress: [_result(host, result) for result in work(progress)]))
        except TooMany as error:
            raise HTTPException(429, str(error)) from error

    def found(id: str) -> Job:
        if (job := next((job for job in host.jobs.of("") if job.id == id), None)) is None:
            raise HTTPException(404, f"No job {id}.")
        return job

    @api.get("/bases", response_model=list[LoraxBase])
    def bases() -> Any:
        loaded = host.loaded()
        return [LoraxBase(name=name, loaded=name == loaded) for name in host.bases()]

    @api.get("/adapters", response_model=list[LoraxAdapter])
    def adapters() -> Any:
        return [LoraxAdapter(name=name, **vars(facts(model.path))) for name, model in host.adapters().items()]

    @api.post("/analyse", response_model=LoraxJob, status_code=202)
    def analyse_job(asked: LoraxAnalysis) -> Any:
        request = _request(host, asked)
        return begin(lambda progress: analyse(request, progress, memory))

    @api.post("/transfer", response_model=LoraxJob, status_code=202)
    def transfer_job(asked: LoraxTransfer) -> Any:
        request = _request(host, asked)
        try:
            saving = _chosen(host, Saving, asked.saving)
            destination = InFolder(host.adapter_folder, asked.subfolder, asked.name, saving, host.prompt_names)
        except LoraxError as error:
            raise HTTPException(422, str(error)) from error

        def work(progress: Progress) -> list[Result]:
            results = transfer(request, destination, progress, memory)
            host.refresh()  # so that the new files are listed
            return results

        return begin(work)

    @api.get("/jobs/{id}", response_model=LoraxJob)
    def job(id: str) -> Any:
        return _shown(found(id))

    @api.post("/jobs/{id}/cancel", response_model=LoraxJob)
    def cancel(id: str) -> Any:
        (job := found(id)).stop()
        return _shown(job)

    return api


def _check_lengths(value: Any, where: str = "the request") -> None:
    """Raise LoraxError if a text or a list anywhere in a request is longer than is allowed."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise LoraxError(f"{where}: {len(value)} letters; at most {LONGEST_TEXT} are allowed.")
    if isinstance(value, (list, tuple)) and len(value) > LONGEST_LIST:
        raise LoraxError(f"{where}: {len(value)} entries; at most {LONGEST_LIST} are allowed.")
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ():
        _check_lengths(part, name if isinstance(name, str) else f"{where}, number {name + 1}")


def _request(host: Host, asked: LoraxAnalysis) -> Request:
    try:
        _check_lengths(asked.model_dump() if hasattr(asked, "model_dump") else asked.dict())  # pydantic 2 and 1
        options = _chosen(host, Options, asked.options)
        if options.device == "auto":
            options = replace(options, device=host.device())
        bases, adapters = host.bases(), host.adapters()
        return Request(
            _named(bases, asked.source, "base"),
            _named(bases, asked.target, "base"),
            [_named(adapters, name, "adapter") for name in asked.adapters],
            options,
            _chosen(host, Running, asked.running),
        )
    except LoraxError as error:
        raise HTTPException(422, str(error)) from error


def _chosen(host: Host, declaration: type[T], asked: BaseModel) -> T:
    """Return the requested options; for those that are not given, the defaults that the user has set in the host."""
    given = asked.model_fields_set if hasattr(asked, "model_fields_set") else asked.__fields_set__  # pydantic 2 and 1
    preset = host.defaults()
    usual = {one.name: one.parse(preset[one.name]) for one in declared(declaration) if one.name in preset}
    return declaration(**vars(asked) | usual | {name: getattr(asked, name) for name in given})


def _named(models: dict[str, ListedFile], name: str, kind: str) -> ListedFile:
    if name not in models:
        raise HTTPException(404, f"No {kind} {name!r}. See {PREFIX}/{kind}s for the names.")
    return models[name]


def _result(host: Host, result: Result) -> dict[str, Any]:
    written = result.written.relative_to(host.adapter_folder).as_posix() if result.written else None
    return {"adapter": result.adapter.name, "written": written, "report": as_json(result.report), "note": result.note}
