"""Fits the LoRA-X files that a prompt activates to the loaded checkpoint, before a picture is drawn."""

import logging
import weakref
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import networks
import torch
from modules import devices, processing, scripts, sd_models, shared

from lorax.errors import Interrupted, LoraxError
from lorax.files import Cache, stamp
from lorax.formats import Header, open_adapter
from lorax.hosts.a1111.network.module_type import modules_of
from lorax.progress import Progress
from lorax.workflow import Fit, Fitter

log = logging.getLogger(__name__)
STALE = ("a LoRA-X file was fitted again",)  # differs from every set of networks that a layer can have


def make_script(cache: Callable[[], Cache], device: Callable[[], str]) -> type:
    """Make the script class that the WebUI calls once networks are activated."""
    activation = Activation(cache, device)

    class LoraxNetworks(scripts.Script):
        def title(self) -> str:
            return "LoRA-X networks"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def after_extra_networks_activate(self, p: Any, *args: Any, extra_network_data: dict[str, Any], **kwargs: Any) -> None:
            report_unloaded(p, {asked.positional[0] for asked in extra_network_data.get("lora", [])})
            activation.fit_all(p)

    return LoraxNetworks


class Checkpoints:
    """The WebUI's checkpoints; implements ``lorax.workflow.Library``. The WebUI hashes a checkpoint when it first loads it."""

    def sha256(self, path: Path) -> str | None:
        return next((info.sha256 for info in sd_models.checkpoints_list.values() if Path(info.filename) == path), None)

    def candidates(self, header: Header) -> Iterable[Path]:
        """Yield the checkpoints with the source's hash, then those with its name."""
        listed = [(Path(info.filename), info.sha256) for info in sd_models.checkpoints_list.values()]
        yield from (path for path, sha256 in listed if sha256 == header.source_sha256)
        yield from (path for path, sha256 in listed if sha256 != header.source_sha256 and path.name == header.source)


class Activation:
    """The fitting of activated networks, with one ``Fitter`` for all prompts."""

    def __init__(self, cache: Callable[[], Cache], device: Callable[[], str]) -> None:
        self._make_cache, self._wanted_device = cache, device

    @cached_property
    def _fitter(self) -> Fitter:
        return Fitter(self._make_cache(), Checkpoints())

    def fit_all(self, p: Any) -> None:
        """Fit the networks that are not fitted yet. One that cannot be fitted is left out of the picture, with a message."""
        nets = [net for net in dict.fromkeys(networks.loaded_networks) if is_lorax(net)]
        if not nets:
            return
        for net in nets:
            try:
                with devices.without_autocast():
                    self._fit(p, net)
            except Interrupted:
                leave_out(p, net, "not applied: interrupted.")
            except (LoraxError, OSError) as error:
                leave_out(p, net, str(error))
            except Exception as error:
                leave_out(p, net, f"not applied, because of an unexpected {type(error).__name__}: {error}")
                log.exception("fitting %s", net.name)
        apply_again({net.name: net.lorax_fit for net in nets})

    def _fit(self, p: Any, net: Any) -> None:
        file, model = Path(net.network_on_disk.filename), shared.sd_model
        target = Path(model.sd_checkpoint_info.filename)
        wanted = (stamp(file), stamp(target), model.sd_checkpoint_info.sha256, "fitted")
        if getattr(net, "lorax_fit", None) == wanted and net.lorax_model() is model:
            return
        try:
            fit = self._on_device(file, target, _progress(net.name))
        finally:
            shared.state.textinfo = None
        net.modules, missing = modules_of(net, fit.layers)
        net.lorax_model = weakref.ref(model)
        # A fit that is not final, or that has a message, is repeated at the next prompt.
        net.lorax_fit = wanted if fit.final and not fit.message else (*wanted[:3], fit.message)
        if fit.message:
            tell(p, net.name, fit.message)
        if missing:
            tell(p, net.name, f"{len(missing)} of {len(fit.layers)} layers are not in the loaded checkpoint, as {missing[0]}.")

    def _on_device(self, file: Path, target: Path, progress: Progress) -> Fit:
        try:
            return self._fitter.fit(file, target, self._device(), progress)
        except torch.cuda.OutOfMemoryError:  # the loaded model takes most of the memory
            devices.torch_gc()
            return self._fitter.fit(file, target, "cpu", progress)

    def _device(self) -> str:
        if (wanted := self._wanted_device()) != "auto":
            return wanted
        device = devices.device
        return str(device) if device.type in ("cpu", "cuda", "mps") else "cpu"


def is_lorax(net: Any) -> bool:
    """Tell whether a network is a LoRA-X file, by its header or by a layer that the network type accepted."""
    return "lorax_format" in net.network_on_disk.metadata or hasattr(net, "lorax_fit")


def report_unloaded(p: Any, names: set[str]) -> None:
    """Tell the user which LoRA-X files were not loaded, and why. The WebUI itself writes that to its console only."""
    for name in sorted(names - {net.mentioned_name for net in networks.loaded_networks}):
        file = networks.available_networks.get(name) or networks.available_network_aliases.get(name)
        if file is None or "lorax_format" not in file.metadata:
            continue
        message = "not applied: the WebUI could not load the file with the loaded checkpoint; its console tells why."
        try:
            open_adapter(Path(file.filename))
        except (LoraxError, OSError) as error:
            message = str(error)
        tell(p, name, message)


def tell(p: Any, name: str, message: str) -> None:
    """Show a message below the picture, and in the console for those who use the API."""
    p.comment(f"LoRA-X, {name}: {message}")
    log.warning("LoRA-X, %s: %s", name, message)


def leave_out(p: Any, net: Any, why: str) -> None:
    net.lorax_fit, net.modules = None, {}
    tell(p, net.name, why)


def apply_again(fits: dict[str, Any]) -> None:
    """Have the WebUI apply the networks again if one has another fit now. By itself it compares their names only."""
    model = shared.sd_model
    applied = model.__dict__.setdefault("lorax_applied", {})
    if all(applied.get(name) == fit for name, fit in fits.items()):
        return
    applied.update(fits)
    for module in model.network_layer_mapping.values():
        if getattr(module, "network_current_names", ()):
            module.network_current_names = STALE
    for encoded in (
        processing.StableDiffusionProcessing.cached_c,
        processing.StableDiffusionProcessing.cached_uc,
        processing.StableDiffusionProcessingTxt2Img.cached_hr_c,
        processing.StableDiffusionProcessingTxt2Img.cached_hr_uc,
    ):
        encoded[:] = [None, None]


def _progress(name: str) -> Progress:
    def show(done: int, total: int, text: str) -> None:
        state = shared.state
        if state.interrupted or state.skipped:
            raise Interrupted
        state.textinfo = f"LoRA-X: fitting {name}: {text}"
        state.sampling_steps, state.sampling_step = total, done  # the progress bar; sampling sets its own

    return show
