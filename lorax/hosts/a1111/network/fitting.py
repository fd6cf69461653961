"""Fits LoRA-X files to the loaded checkpoint, and tells in a picture's output what became of them. See ``register``."""

import logging
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from modules import devices, processing, scripts, sd_models, shared

from lorax.errors import Interrupted, in_words, is_expected, is_out_of_memory
from lorax.files import Cache
from lorax.formats import Header
from lorax.progress import Progress
from lorax.workflow import Fit, Fitter

T = TypeVar("T")
log = logging.getLogger(__name__)


class NetworkScript(scripts.Script):
    """A script that the WebUI calls for every picture, and that has nothing on the page."""

    def title(self) -> str:
        return "LoRA-X networks"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible


class Checkpoints:
    """The WebUI's checkpoints; implements ``lorax.workflow.Library``. The WebUI hashes a checkpoint when it first loads it."""

    def sha256(self, path: Path) -> str | None:
        return next((sha256 for listed, sha256 in self._listed() if listed == path), None)

    def candidates(self, header: Header) -> Iterable[Path]:
        """Yield the checkpoints with the source's hash, then those with its name."""
        listed = self._listed()
        yield from (path for path, sha256 in listed if sha256 == header.source_sha256)
        yield from (path for path, sha256 in listed if sha256 != header.source_sha256 and path.name == header.source)

    @staticmethod
    def _listed() -> list[tuple[Path, str | None]]:
        infos = list(sd_models.checkpoints_list.values())  # which another thread may fill anew meanwhile
        return [(Path(info.filename), info.sha256) for info in infos]


class Fitting:
    """The fitting of files, with one ``Fitter`` for all prompts."""

    def __init__(self, cache: Callable[[], Cache], device: Callable[[], str]) -> None:
        self._make_cache, self._wanted_device = cache, device

    @cached_property
    def _fitter(self) -> Fitter:
        return Fitter(self._make_cache(), Checkpoints())

    def fit(self, name: str, file: Path, target: Path) -> Fit:
        """Fit the file to the target, with the WebUI's progress bar; ``name`` is that in prompts."""
        try:
            # Some WebUIs draw in inference mode, whose tensors are of no use to threads that are not in it.
            with devices.without_autocast(), torch.inference_mode(False), torch.no_grad():
                return self._on_device(file, target, _progress(name))
        finally:
            shared.state.textinfo = None

    def _on_device(self, file: Path, target: Path, progress: Progress) -> Fit:
        try:
            return self._fitter.fit(file, target, self._device(), progress)
        except Exception as error:
            if not is_out_of_memory(error):  # the loaded model takes most of the card's
                raise
            devices.torch_gc()
            return self._fitter.fit(file, target, "cpu", progress)

    def _device(self) -> str:
        if (wanted := self._wanted_device()) != "auto":
            return wanted
        device = devices.device
        return str(device) if device.type in ("cpu", "cuda", "mps") else "cpu"


def attempted(work: Callable[[], T]) -> T | str:
    """Return the work's result, or a message that tells why there is none. Nothing but the picture's own end stops it."""
    try:
        return work()
    except Interrupted:
        return "not applied: interrupted."
    except Exception as error:
        if not is_expected(error):
            log.exception("fitting a LoRA-X file")
        return in_words(error, "not applied. ")


def tell(p: Any, name: str, message: str) -> None:
    """Show a message below the picture, and in the console for those who use the API."""
    p.comment(f"LoRA-X, {name}: {message}")
    log.warning("LoRA-X, %s: %s", name, message)


def forget_encoded() -> None:
    """Have the WebUI encode prompts again. By itself, it does so if names or strengths of networks change."""
    for encoded in (
        processing.StableDiffusionProcessing.cached_c,
        processing.StableDiffusionProcessing.cached_uc,
        processing.StableDiffusionProcessingTxt2Img.cached_hr_c,
        processing.StableDiffusionProcessingTxt2Img.cached_hr_uc,
    ):
        encoded[:] = [None] * len(encoded)


def _progress(name: str) -> Progress:
    def show(done: int, total: int, text: str) -> None:
        state = shared.state
        if state.interrupted or state.skipped:
            raise Interrupted
        state.textinfo = f"LoRA-X: fitting {name}: {text}"
        state.sampling_steps, state.sampling_step = total, done  # the progress bar; sampling sets its own

    return show
