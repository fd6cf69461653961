"""AUTOMATIC1111's WebUI, v1.10, as a host."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules import call_queue, devices, paths_internal, processing, scripts, sd_models, shared, util

from lorax.catalog import ListedFile
from lorax.errors import Interrupted, LoraxError
from lorax.files import Cache, files_below
from lorax.hosts.a1111.models import HostModels
from lorax.hosts.a1111.network import SCRIPT
from lorax.hosts.a1111.settings import cache, stored
from lorax.hosts.base import Shot, T
from lorax.hosts.jobs import Jobs
from lorax.progress import Progress

SUFFIXES = (".safetensors", ".ckpt", ".pt")


class A1111:
    """The WebUI as a host: lists of files, queue, progress and pictures are its own."""

    picture_size: int | None = 512
    has_prompt = True
    jobs = Jobs()  # of the process: Reload UI makes another host

    def __init__(self) -> None:
        self.adapter_folder = Path(getattr(shared.cmd_opts, "lora_dir", None) or Path(paths_internal.models_path) / "Lora")
        disabled = "The built-in extension Lora is disabled: LoRAs can be moved, but neither be used in prompts nor compared."
        self.notice = "" if _networks() else disabled

    def bases(self) -> dict[str, ListedFile]:
        found = (ListedFile(info.name, Path(info.filename), info.sha256) for info in sd_models.checkpoints_list.values())
        return {model.name: model for model in found if model.path.suffix.lower() in SUFFIXES}

    def adapters(self) -> dict[str, ListedFile]:
        if networks := _networks():
            return {name: ListedFile(name, Path(found.filename)) for name, found in networks.available_networks.items()}
        return {path.stem: ListedFile(path.stem, path) for path in sorted(files_below(self.adapter_folder, SUFFIXES))}

    def prompt_names(self) -> Mapping[str, Path]:
        self.refresh()  # names have no folders; of files with one name, the WebUI uses the one that it finds last
        return {name: model.path for name, model in self.adapters().items()}

    def loaded(self) -> str | None:
        info = _loaded() or sd_models.get_closet_checkpoint_match(shared.opts.sd_model_checkpoint)
        return info.name if info else None

    def refresh(self) -> None:
        sd_models.list_models()
        if networks := _networks():
            networks.list_available_networks()

    def defaults(self) -> Mapping[str, Any]:
        return stored()

    def cache(self) -> Cache | None:
        return cache()

    def device(self) -> str:
        return str(devices.device) if devices.device.type == "cuda" else "cpu"

    def models(self) -> HostModels:
        return HostModels()

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T:
        def both(done: int, total: int, text: str) -> None:
            progress(done, total, text)
            _progress(done, total, text)

        with call_queue.queue_lock:
            shared.state.begin(job="lorax")
            try:
                with _loaded_again():
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

    def tag(self, adapter: Path) -> str:
        listed = _networks().available_networks.values() if _networks() else ()
        name = next((network.get_alias() for network in listed if Path(network.filename) == adapter), adapter.stem)
        return f"<lora:{name}:1>"

    def pictures(
        self, shots: Sequence[Shot], prompt: str, seed: int, steps: int, size: int | None, progress: Progress
    ) -> tuple[list[Any], list[str]]:
        """Draw the shots; see ``Host.pictures``. Must be called in the WebUI's queue, as ``run`` does."""
        if (networks := _networks()) is None:
            raise LoraxError("Pictures need the built-in extension Lora, which is disabled. Enable it under Extensions.")
        adapters = {shot.adapter.path for shot in shots if shot.adapter}
        names = [name for name, found in networks.available_network_aliases.items() if Path(found.filename) in adapters]
        for name in names:  # a prompt from txt2img may have their tags
            prompt = re.sub(rf"<(?:lora|lyco):{re.escape(name)}(?::[^>]*)?>", "", prompt)
        drawn, comments = [], []
        try:
            for done, shot in enumerate(shots):
                progress(done, len(shots), shot.title)
                tag = self.tag(shot.adapter.path) if shot.adapter else ""
                job = processing.StableDiffusionProcessingTxt2Img(
                    prompt=f"{prompt} {tag}",
                    seed=seed,
                    steps=steps,
                    width=size,
                    height=size,
                    do_not_save_samples=True,
                    do_not_save_grid=True,
                    override_settings={"sd_model_checkpoint": shot.base.name},
                )
                job.scripts, job.script_args = _script_runner(), ()
                try:
                    processed = processing.process_images(job)
                    drawn += processed.images[:1]
                    comments += [f"{shot.title}: {comment}" for comment in processed.comments.splitlines()]
                finally:
                    job.close()
            progress(len(shots), len(shots), "")  # raises if the user stopped the last picture
        finally:
            sd_models.reload_model_weights()  # the checkpoint that was loaded before
        return drawn, comments


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


def _script_runner() -> Any:
    """Make a runner with our script alone: it fits LoRA-X files to the checkpoint. Scripts of other extensions do not run."""
    runner = scripts.ScriptRunner()
    always_on = scripts.scripts_txt2img.alwayson_scripts if scripts.scripts_txt2img else ()
    runner.alwayson_scripts = [script for script in always_on if type(script).__name__ == SCRIPT]
    return runner


def _loaded() -> Any:
    """Return the CheckpointInfo of the loaded checkpoint, or None."""
    model = sd_models.model_data.sd_model  # reading shared.sd_model would load one
    return model.sd_checkpoint_info if model else None


@contextmanager
def _loaded_again() -> Iterator[None]:
    """Reload, at the end of the block, the checkpoint that was loaded at its start, if another one is loaded by then."""
    before = _loaded()
    try:
        yield
    finally:
        if _loaded() is not before:
            with sd_models.SkipWritingToConfig():  # the user may have selected another one in the meantime
                sd_models.reload_model_weights(info=before)


def _networks() -> Any:
    """Return the module ``networks`` of the built-in extension Lora, or None if that is disabled."""
    module = sys.modules.get("networks")
    return module if hasattr(module, "available_networks") else None


def _progress(done: int, total: int, text: str) -> None:
    state = shared.state
    if state.interrupted or state.skipped or state.stopping_generation:
        raise Interrupted
    state.job_count, state.job_no, state.textinfo = total, done, text
