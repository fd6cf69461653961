"""What the tab and the API do: analyse or transfer several adapters between two bases that a host lists."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from lorax.catalog import Model
from lorax.checkpoint.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.files.cache import Cache
from lorax.files.staging import Staging, check_free
from lorax.files.tensors import stamp
from lorax.formats import open_adapter
from lorax.methods import BEHAVIOURAL
from lorax.models.runnable import check_all
from lorax.options import Options, Running, Saving
from lorax.output import writing
from lorax.transfer.cost import Cost, estimate, total
from lorax.transfer.planning import Moved, Plan, Progress, plan_all
from lorax.transfer.report import Report
from lorax.transfer.running import run_all

if TYPE_CHECKING:
    from lorax.models.protocol import Models


@dataclass(frozen=True)
class Request:
    """Which adapters are moved from where to where, and how. Raises LoraxError where no adapter is named."""

    source: Model
    target: Model
    adapters: Sequence[Model]
    options: Options = field(default_factory=Options)
    running: Running = field(default_factory=Running)

    def __post_init__(self) -> None:
        if not self.adapters:
            raise LoraxError("No LoRA is chosen. Choose at least one.")


@dataclass(frozen=True)
class Destination:
    """Where the moved adapters go: always somewhere inside ``root``. Raises LoraxError for names that lead elsewhere."""

    root: Path
    subfolder: str = ""  # empty: beside the adapter
    name: str = ""  # empty: as ``output.path_of`` says
    saving: Saving = field(default_factory=Saving)
    prompt_names: Callable[[], Mapping[str, Path]] = dict  # as ``Host.prompt_names``

    def __post_init__(self) -> None:
        if PurePath(self.name).name != self.name or "\\" in self.name:
            raise LoraxError(f"name {self.name!r}: expected a file name without folders. Name the folder as the subfolder.")
        subfolder = PurePath(self.subfolder)
        if subfolder.anchor or ".." in subfolder.parts:
            raise LoraxError(f"subfolder {self.subfolder!r}: outside of {self.root}. Choose one inside it.")

    def path(self, plan: Plan) -> Path:
        path = writing.path_of(plan, None, self.saving)
        name = f"{self.name.removesuffix('.safetensors')}.safetensors" if self.name else path.name
        beside = path.parent if path.parent.is_relative_to(self.root) else self.root
        return (self.root / self.subfolder if self.subfolder else beside) / name

    def check(self, paths: Iterable[Path]) -> None:
        """Raise LoraxError where prompts would load another file by the name that one of these has."""
        names = self.prompt_names()
        for path in paths:
            if (other := names.get(path.stem, path)) != path:
                raise LoraxError(
                    f"{path}: in prompts it could not be told from {other}, which has the same name. Choose another output name, "
                    "or move that file away."
                )


@dataclass(frozen=True)
class Result:
    """What became of one adapter; ``written`` is the new file, if there is one, and ``note`` what is to be known of it."""

    adapter: Model
    report: Report
    written: Path | None = None
    note: str = ""


class Memory:
    """What was computed last, so that a transfer need not repeat what was analysed just before. Not kept when it is large.

    ``cache``: the host's, for what is found of the bases. ``models``: what runs them in the host, as ``Host.models``.
    """

    LIMIT = 1 << 30  # bytes

    def __init__(self, cache: Cache | None = None, models: Models | None = None) -> None:
        self.cache, self.models = cache, models
        self._last: tuple[Hashable, bool, list[Moved]] | None = None

    def of(self, key: Hashable, survey: bool) -> list[Moved] | None:
        """A survey serves where none is asked for, but not the other way round."""
        last = self._last
        return last[2] if last is not None and last[0] == key and last[1] >= survey else None

    def keep(self, key: Hashable, survey: bool, moved: list[Moved]) -> None:
        size = sum(factor.nbytes for one in moved for delta in one.layers.values() for factor in (delta.up, delta.down))
        self._last = (key, survey, moved) if size <= self.LIMIT else None


def plans(request: Request) -> list[Plan]:
    """A plan for each adapter, all made before any work. Raises LoraxError when one of them does not fit the bases."""
    source = open_checkpoint(request.source.path, request.source.sha256)
    same = request.source.path == request.target.path
    target = source if same else open_checkpoint(request.target.path, request.target.sha256)
    adapters = [open_adapter(adapter.path) for adapter in request.adapters]
    return plan_all(adapters, source, target, request.options, request.running)


def cost_of(request: Request) -> Cost:
    """Of a transfer by a method that runs the models, told by headers alone. Raises LoraxError where they cannot be run."""
    planned = plans(replace(request, options=replace(request.options, pairing="name")))  # of other pairs it takes about as much
    check_all(planned[0].source, planned[0].target)
    return total(estimate(one) for one in planned)


def analyse(request: Request, progress: Progress, memory: Memory | None = None) -> list[Result]:
    """Do everything but write, and measure how alike the bases are in every layer.

    Of a method that runs the models nothing is done, but told what a transfer would do and take.
    """
    state, planned = _state(request), plans(request)
    moved = _run(request, planned, progress, state, memory or Memory(), survey=True)
    return [Result(adapter, one.report) for adapter, one in zip(request.adapters, moved, strict=True)]


def transfer(request: Request, destination: Destination, progress: Progress, memory: Memory | None = None) -> list[Result]:
    """Move the adapters and write them: all files appear together at the end, or none does."""
    state, planned = _state(request), plans(request)
    paths = [destination.path(one) for one in planned]
    if len(set(paths)) < len(paths):
        raise LoraxError(f"{len(paths)} LoRAs cannot share the name {paths[0].name}. Leave the output name empty.")
    destination.check(paths)
    saving, results = destination.saving, []
    for one, path in zip(planned, paths, strict=True):
        check_free(path, one.inputs, saving.overwrite, "output name", "have it replaced (Replace, or overwrite in the API)")
    moved = _run(request, planned, progress, state, memory or Memory(), survey=False)
    if not writing.holds_moved(planned[0], saving) or any(made.layers for made in moved):
        _find_hashes(planned[0], saving, progress)
    with Staging() as staging:
        for number, (adapter, one, made, path) in enumerate(zip(request.adapters, planned, moved, paths, strict=True)):
            progress(number, len(paths), f"writing {path.name}")
            written = writing.stage(one, made, path, staging, saving)
            results.append(Result(adapter, made.report, written[0] if written else None, writing.note(one, made, saving)))
        progress(len(paths), len(paths), "")  # the last moment at which a stop leaves nothing
    return results


def _find_hashes(plan: Plan, saving: Saving, progress: Progress) -> None:
    """Of the bases that a written header names: it takes as long as reading them."""

    def told(done: int, total: int, name: str) -> None:
        progress(done, total, f"{name}: {done} of {total} MB")

    for base in (plan.source, *([plan.target] if writing.holds_moved(plan, saving) else [])):
        base.identity.find(told)


def _state(request: Request) -> Hashable:
    """Differs once a file or an option does, and always where a folder is asked for, since what is in it may change unseen."""
    paths = (request.source.path, request.target.path, *(adapter.path for adapter in request.adapters))
    return request.options, request.running, tuple(stamp(path) if path.is_file() else object() for path in paths)


def _run(
    request: Request, planned: list[Plan], progress: Progress, state: Hashable, memory: Memory, *, survey: bool
) -> list[Moved]:
    running = request.options.method in BEHAVIOURAL
    if (known := memory.of(state, survey)) is not None:
        return known
    who = request.adapters[0].name if len(request.adapters) == 1 else f"{len(request.adapters)} LoRAs"

    def show(done: int, total: int, name: str) -> None:
        progress(
            done, total, f"{who}: {f'{name}, step' if running and not survey else 'layer'} {min(done + 1, total)} of {total}"
        )

    moved = run_all(planned, show, memory.cache, survey=survey, models=memory.models)
    if not (running and survey):
        memory.keep(state, survey, moved)
    return moved
