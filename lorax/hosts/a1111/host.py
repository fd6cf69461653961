"""AUTOMATIC1111's WebUI as a host, and the WebUIs made from it: Forge, Forge Neo and reForge.

What they do in different ways is told by what a WebUI can do, never by its name or version: ``chosen`` for the loaded
checkpoint, ``models`` or ``runners`` for running one, and ``network`` for LoRA-X files in prompts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules import call_queue, devices, paths_internal, sd_models, shared, util

from lorax.catalog import ListedFile
from lorax.errors import Interrupted
from lorax.files import Cache, files_below
from lorax.hosts.a1111 import chosen, tags
from lorax.hosts.a1111.models import HostModels, let_go
from lorax.hosts.a1111.network import applies
from lorax.hosts.a1111.pictures import draw, samplers, schedules
from lorax.hosts.a1111.runners import HostRunners, manages_memory
from lorax.hosts.a1111.settings import cache, keep_index, stored
from lorax.hosts.base import Drawing, Drawn, Shot, T
from lorax.hosts.jobs import Jobs
from lorax.models import Models
from lorax.progress import Progress

SUFFIXES = (".safetensors", ".ckpt", ".pt")
GGUF = ".gguf"  # of checkpoints that are listed, and declined in words when they are chosen
DISABLED = "The built-in extension Lora is disabled: LoRAs can be moved, but neither be used in prompts nor compared."
WITHOUT_LORAX = (
    "This WebUI gives extensions no way to apply LoRA-X files in prompts. Move a LoRA to the checkpoint that you want to use it "
    "on, and save it as a plain LoRA."
)


class A1111:
    """The WebUI as a host: lists of files, queue, progress and pictures are its own."""

    picture_size: int | None = 512
    has_prompt = True
    jobs = Jobs()  # of the process: Reload UI makes another host

    def __init__(self) -> None:
        self.adapter_folder = Path(getattr(shared.cmd_opts, "lora_dir", None) or Path(paths_internal.models_path) / "Lora")
        keep_index()
        self._bases, self._adapters = dict[str, ListedFile](), dict[str, ListedFile]()
        found = tags.loras()
        self.without_lorax = "" if found is None or applies(found) else WITHOUT_LORAX
        self.notice = self.without_lorax if found else DISABLED

    def bases(self) -> dict[str, ListedFile]:
        listed = (ListedFile(info.name, Path(info.filename), info.sha256) for info in list(sd_models.checkpoints_list.values()))
        found = {model.name: model for model in listed if model.path.suffix.lower() in (*SUFFIXES, GGUF)}
        self._bases = _with_lost(found, self._bases)
        return self._bases

    def adapters(self) -> dict[str, ListedFile]:
        if networks := tags.loras():
            before, found = self._adapters, dict[str, ListedFile]()
            for name, network in list(networks.available_networks.items()):
                known = before.get(name)  # there may be thousands, and a choice asks for them several times
                is_same = known and str(known.path) == network.filename
                found[name] = known if known and is_same else ListedFile(name, Path(network.filename))
            self._adapters = _with_lost(found, before)
            return self._adapters
        return {path.stem: ListedFile(path.stem, path) for path in sorted(files_below(self.adapter_folder, SUFFIXES))}

    def prompt_names(self) -> Mapping[str, Path]:
        self.refresh()  # names have no folders; of files with one name, the WebUI uses the one that it finds last
        return {name: model.path for name, model in self.adapters().items()}

    def loaded(self) -> str | None:
        info = chosen.shown() or sd_models.get_closet_checkpoint_match(shared.opts.sd_model_checkpoint)
        return info.name if info else None

    def choose(self, base: str) -> None:
        chosen.choose(base)

    def refresh(self) -> None:
        chosen.list_anew()
        if networks := tags.loras():
            networks.list_available_networks()

    def defaults(self) -> Mapping[str, Any]:
        return stored()

    def cache(self) -> Cache | None:
        return cache()

    def device(self) -> str:
        return str(devices.device) if devices.device.type == "cuda" else "cpu"

    def models(self) -> Models:
        return HostRunners() if manages_memory() else HostModels()

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T:
        def both(done: int, total: int, text: str) -> None:
            progress(done, total, text)
            _progress(done, total, text)

        with call_queue.queue_lock:
            shared.state.begin("lorax")
            try:
                with chosen.kept(), _let_go():
                    return work(both)
            finally:
                shared.state.interrupted = shared.state.skipped = shared.state.stopping_generation = False
                shared.state.end()

    def interrupt(self) -> None:
        shared.state.interrupt()  # a picture stops at its next step

    @property
    def opens_folders(self) -> bool:
        return not (shared.cmd_opts.hide_ui_dir_config or shared.cmd_opts.webui_is_non_local)

    def open_folder(self, folder: Path) -> None:
        util.open_folder(str(folder))

    def tag(self, adapter: Path, strength: float = 1.0) -> str:
        return tags.tag(adapter, strength)

    def samplers(self) -> Sequence[str]:
        return samplers()

    def schedules(self) -> Sequence[str]:
        return schedules()

    def pictures(self, shots: Sequence[Shot], drawing: Drawing, progress: Progress) -> Iterator[Drawn]:
        """Draw the shots; see ``Host.pictures``. Must be called in the WebUI's queue, as ``run`` does."""
        return draw(shots, drawing, progress)


@contextmanager
def _let_go() -> Iterator[None]:
    """Free what an error's frames hold on the device, before another checkpoint is loaded there."""
    try:
        yield
    except Exception as error:
        let_go(error)
        raise


def guards(app: Any) -> list[Any] | None:
    """Return the FastAPI dependencies by which the WebUI's own API authorizes a caller; None if it runs without --api."""
    routes = {getattr(route, "path", ""): route for route in app.routes}
    if "/sdapi/v1/options" not in routes:
        return None
    own: list[Any] = list(routes["/sdapi/v1/options"].dependencies)  # --api-auth
    if own or "/login_check" not in routes:
        return own
    from fastapi import Depends

    return [Depends(routes["/login_check"].endpoint)]  # --gradio-auth


def _with_lost(found: dict[str, ListedFile], before: dict[str, ListedFile]) -> dict[str, ListedFile]:
    """Return what is listed, and what was before and is there still: the WebUI empties its lists before it fills them anew."""
    lost = {name: model for name, model in before.items() if name not in found and model.path.is_file()}
    return {**found, **lost} if lost else found


def _progress(done: int, total: int, text: str) -> None:
    state = shared.state
    if state.interrupted or state.skipped or state.stopping_generation:
        raise Interrupted
    state.job_count, state.job_no, state.textinfo = total, done, text
