"""What the tab and the API do: analyse or transfer several adapters between two bases that a host lists."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from lorax import output
from lorax.cache import Cache
from lorax.catalog import Model
from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.options import Options, Saving
from lorax.report import Report
from lorax.staging import Staging, check_free
from lorax.tensors import stamp
from lorax.transfer import Moved, Plan, Progress, plan_all, run_all


@dataclass(frozen=True)
class Request:
    """Which adapters are moved from where to where, and how. Raises LoraxError where no adapter is named."""

    source: Model
    target: Model
    adapters: Sequence[Model]
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        if not self.adapters:
            raise LoraxError("No LoRA is chosen. Choose at least one.")


@dataclass(frozen=True)
class Destination:
    """Where the moved adapters go: always somewhere inside ``root``. Raises LoraxError for names that lead elsewhere."""

    root: Path
    subfolder: str = ""  # empty: beside the adapter
    name: str = ""  # empty: <adapter>-<target>, or <adapter>-lorax for a LoRA-X file
    saving: Saving = field(default_factory=Saving)

    def __post_init__(self) -> None:
        if PurePath(self.name).name != self.name or "\\" in self.name:
            raise LoraxError(f"name {self.name!r}: expected a file name without folders. Name the folder as the subfolder.")
        subfolder = PurePath(self.subfolder)
        if subfolder.anchor or ".." in subfolder.parts:
            raise LoraxError(f"subfolder {self.subfolder!r}: outside of {self.root}. Choose one inside it.")

    def path(self, plan: Plan) -> Path:
        path = output.path_of(plan, None, self.saving)
        name = f"{self.name.removesuffix('.safetensors')}.safetensors" if self.name else path.name
        beside = path.parent if path.parent.is_relative_to(self.root) else self.root
        return (self.root / self.subfolder if self.subfolder else beside) / name


@dataclass(frozen=True)
class Result:
    """What became of one adapter; ``written`` is the new file, if there is one, and ``note`` what is to be known of it."""

    adapter: Model
    report: Report
    written: Path | None = None
    note: str = ""


class Memory:
    """What was computed last, so that a transfer need not repeat what was analysed just before. Not kept when it is large.

    ``cache``: the host's, for what is found of the bases.
    """

    LIMIT = 1 << 30  # bytes

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache
        self._last: tuple[Hashable, list[Moved]] | None = None

    def of(self, key: Hashable) -> list[Moved] | None:
        last = self._last
        return last[1] if last is not None and last[0] == key else None

    def keep(self, key: Hashable, moved: list[Moved]) -> None:
        size = sum(factor.nbytes for one in moved for delta in one.layers.values() for factor in (delta.up, delta.down))
        self._last = (key, moved) if size <= self.LIMIT else None


def plans(request: Request) -> list[Plan]:
    """A plan for each adapter, all made before any work. Raises LoraxError when one of them does not fit the bases."""
    source = open_checkpoint(request.source.path, request.source.sha256)
    same = request.source.path == request.target.path
    target = source if same else open_checkpoint(request.target.path, request.target.sha256)
    return plan_all([open_adapter(adapter.path) for adapter in request.adapters], source, target, request.options)


def analyse(request: Request, progress: Progress, memory: Memory | None = None) -> list[Result]:
    """Do everything but write."""
    state, planned = _state(request), plans(request)
    moved = _run(request, planned, progress, state, memory or Memory())
    return [Result(adapter, one.report) for adapter, one in zip(request.adapters, moved, strict=True)]


def transfer(request: Request, destination: Destination, progress: Progress, memory: Memory | None = None) -> list[Result]:
    """Move the adapters and write them: all files appear together at the end, or none does."""
    state, planned = _state(request), plans(request)
    paths = [destination.path(one) for one in planned]
    if len(set(paths)) < len(paths):
        raise LoraxError(f"{len(paths)} LoRAs cannot share the name {paths[0].name}. Leave the output name empty.")
    saving, results = destination.saving, []
    for one, path in zip(planned, paths, strict=True):
        check_free(path, one.inputs, saving.overwrite, "output name", "have it replaced (Replace, or overwrite in the API)")
    moved = _run(request, planned, progress, state, memory or Memory())
    with Staging() as staging:
        for adapter, one, made, path in zip(request.adapters, planned, moved, paths, strict=True):
            written = output.stage(one, made, path, staging, saving)
            results.append(Result(adapter, made.report, written[0] if written else None, output.note(one, made, saving)))
    return results


def _state(request: Request) -> Hashable:
    """Differs once a file or an option does, and always where a folder is asked for, since what is in it may change unseen."""
    paths = (request.source.path, request.target.path, *(adapter.path for adapter in request.adapters))
    return request.options, tuple(stamp(path) if path.is_file() else object() for path in paths)


def _run(request: Request, planned: list[Plan], progress: Progress, state: Hashable, memory: Memory) -> list[Moved]:
    if (known := memory.of(state)) is not None:
        return known
    who = request.adapters[0].name if len(request.adapters) == 1 else f"{len(request.adapters)} LoRAs"

    def show(done: int, total: int, layer: str) -> None:
        progress(done, total, f"{who}: layer {min(done + 1, total)} of {total}")

    moved = run_all(planned, show, memory.cache)
    memory.keep(state, moved)
    return moved
