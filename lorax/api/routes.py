"""The API for programs, ``/lorax/v1/``. Files have the names under which the host lists them, never paths; captions are texts.

It works with pydantic 1 and 2, and with the FastAPI of both hosts, which do not read postponed annotations.
"""

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from lorax.api.schemas import (
    LoraxAdapter,
    LoraxAnalysis,
    LoraxBase,
    LoraxJob,
    LoraxTransfer,
    LoraxVerdict,
    LoraxVerdicts,
)
from lorax.catalog import ListedFile, facts
from lorax.errors import Interrupted, LoraxError
from lorax.files import as_utf8
from lorax.guard import READING, Refused, check_body
from lorax.hosts.base import Host
from lorax.options import Options, Running, Saving, declared
from lorax.progress import Progress
from lorax.transfer import Verdict, as_json
from lorax.transfer.verdict_words import words
from lorax.workflow import InFolder, Memory, Request, Result, Verdicts, analyse, transfer

T = TypeVar("T")
PREFIX = "/lorax/v1"
FINISHED = 50  # finished jobs whose results are available
IN_LINE = 20  # jobs that run or wait, each in a thread
LONGEST_TEXT = 4096  # letters of each text of a request
LONGEST_LIST = 10_000  # entries of each list


@dataclass
class ApiJob:
    """A transfer or an analysis in its own thread."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "running"
    done: int = 0
    total: int = 0
    text: str = ""
    error: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def start(self, host: Host, work: Callable[[Progress], list[Result]]) -> None:
        threading.Thread(target=self._run, args=(host, work), name="lorax-job", daemon=True).start()

    def shown(self) -> LoraxJob:
        shown = {name: getattr(self, name) for name in ("id", "state", "done", "total", "text", "error", "results")}
        return LoraxJob(**json.loads(as_utf8(json.dumps(shown, ensure_ascii=False))))

    def _run(self, host: Host, work: Callable[[Progress], list[Result]]) -> None:
        def begin(progress: Progress) -> list[Result]:
            progress(0, 1, "Reading the files")  # raises if the job was cancelled in the queue
            return work(progress)

        try:
            self.results = [_result(host, result) for result in host.run(begin, self._progress)]
            self.state = "done"
        except Interrupted:
            self.state = "cancelled"
        except Exception as error:  # whatever happened, the job must get a final state
            self.error, self.state = f"{error}" if isinstance(error, LoraxError) else repr(error), "failed"

    def _progress(self, done: int, total: int, text: str) -> None:
        if self.cancelled.is_set():
            raise Interrupted
        self.done, self.total, self.text = done, total, text


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


class Jobs:
    """The jobs of a host: those that run or wait, and the last ones that have ended."""

    def __init__(self, host: Host) -> None:
        self._host, self._jobs = host, dict[str, ApiJob]()
        self._lock = threading.Lock()  # FastAPI runs requests in threads

    def begin(self, work: Callable[[Progress], list[Result]]) -> LoraxJob:
        """Start a job. Raises HTTPException if too many run or wait."""
        started = ApiJob()
        with self._lock:
            ended = [id for id, job in self._jobs.items() if job.state != "running"]
            if len(self._jobs) - len(ended) >= IN_LINE:
                raise HTTPException(429, f"{IN_LINE} jobs run or wait already, which is the most. Ask again when one has ended.")
            for id in ended[:-FINISHED]:
                del self._jobs[id]
            self._jobs[started.id] = started
        started.start(self._host, work)
        return started.shown()

    def find(self, id: str) -> ApiJob:
        """Return a job. Raises HTTPException if there is none."""
        if (found := self._jobs.get(id)) is None:
            raise HTTPException(404, f"No job {id}.")
        return found


def router(host: Host) -> APIRouter:
    """Make the routes for a host."""
    api = APIRouter(prefix=PREFIX, tags=["LoRA-X"], route_class=CheckedRoute)
    jobs, memory = Jobs(host), Memory(host.cache(), host.models())
    verdicts = Verdicts(host.cache(), host.models(), host.device())

    @api.get("/bases", response_model=list[LoraxBase])
    def bases() -> Any:
        loaded = host.loaded()
        return [LoraxBase(name=name, loaded=name == loaded) for name in host.bases()]

    @api.get("/adapters", response_model=list[LoraxAdapter])
    def adapters() -> Any:
        return [LoraxAdapter(name=name, **vars(facts(model.path))) for name, model in host.adapters().items()]

    @api.post("/verdict", response_model=list[LoraxVerdict])
    def verdict(asked: LoraxVerdicts) -> Any:
        adapters, target, source, bases = _asked(host, asked)
        found = verdicts.of_all(adapters, target, source, bases)
        return [_verdict(adapter, one) for adapter, one in zip(adapters, found, strict=True)]

    @api.post("/analyse", response_model=LoraxJob, status_code=202)
    def analyse_job(asked: LoraxAnalysis) -> Any:
        request = _request(host, asked)
        return jobs.begin(lambda progress: analyse(request, progress, memory))

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

        return jobs.begin(work)

    @api.get("/jobs/{id}", response_model=LoraxJob)
    def job(id: str) -> Any:
        return jobs.find(id).shown()

    @api.post("/jobs/{id}/cancel", response_model=LoraxJob)
    def cancel(id: str) -> Any:
        jobs.find(id).cancelled.set()
        return jobs.find(id).shown()

    return api


def _check_lengths(value: Any, where: str = "the request") -> None:
    """Raise LoraxError if a text or a list anywhere in a request is longer than is allowed."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise LoraxError(f"{where}: {len(value)} letters; at most {LONGEST_TEXT} are allowed.")
    if isinstance(value, (list, tuple)) and len(value) > LONGEST_LIST:
        raise LoraxError(f"{where}: {len(value)} entries; at most {LONGEST_LIST} are allowed.")
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ():
        _check_lengths(part, name if isinstance(name, str) else f"{where}, number {name + 1}")


def _asked(host: Host, asked: LoraxVerdicts) -> tuple[list[ListedFile], ListedFile, ListedFile | None, list[ListedFile]]:
    """Return the files that are asked about: the adapters, the target, the source if it is given, and all bases."""
    try:
        _check_lengths(_as_dict(asked))
    except LoraxError as error:
        raise HTTPException(422, str(error)) from error
    bases, adapters = host.bases(), host.adapters()
    source = _named(bases, asked.source, "base") if asked.source else None
    named = [_named(adapters, name, "adapter") for name in asked.adapters]
    return named, _named(bases, asked.target, "base"), source, list(bases.values())


def _verdict(adapter: ListedFile, found: Verdict) -> LoraxVerdict:
    actions = [{"do": one.do.value, "method": one.do.method, "seconds": one.seconds} for one in found.actions]
    shown = {
        "adapter": adapter.name,
        "kind": found.kind.value,
        "words": words(found),
        "strength": found.strength,
        "actions": actions,
    }
    return LoraxVerdict(**json.loads(as_utf8(json.dumps(shown, ensure_ascii=False))))


def _as_dict(asked: BaseModel) -> Any:
    return asked.model_dump() if hasattr(asked, "model_dump") else asked.dict()  # pydantic 2 and 1


def _request(host: Host, asked: LoraxAnalysis) -> Request:
    try:
        _check_lengths(_as_dict(asked))
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
