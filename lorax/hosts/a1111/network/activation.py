"""When a prompt activates networks: fits the LoRA-X files among them to the loaded checkpoint, before anything is drawn."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import networks
import torch
from modules import devices, processing, scripts, shared

from lorax.errors import Interrupted, LoraxError
from lorax.files import Cache, stamp
from lorax.formats import open_adapter
from lorax.hosts.a1111.network.library import Checkpoints
from lorax.hosts.a1111.network.module_type import modules_of
from lorax.progress import Progress
from lorax.workflow import Fit, Fitter

log = logging.getLogger(__name__)
STALE = ("a LoRA-X file was fitted anew",)  # differs from every set of networks that a layer can have


def make_script(cache: Callable[[], Cache], device: Callable[[], str]) -> type:
    """The script class through which the host tells that networks were activated."""
    activation = Activation(cache, device)

    class LoraxNetworks(scripts.Script):
        def title(self) -> str:
            return "LoRA-X networks"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def after_extra_networks_activate(self, p: Any, *args: Any, extra_network_data: dict[str, Any], **kwargs: Any) -> None:
            tell_of_those_not_loaded(p, {asked.positional[0] for asked in extra_network_data.get("lora", [])})
            activation.fit_all(p)

    return LoraxNetworks


class Activation:
    def __init__(self, cache: Callable[[], Cache], device: Callable[[], str]) -> None:
        self._make_cache, self._wanted_device = cache, device

    @cached_property
    def _fitter(self) -> Fitter:
        return Fitter(self._make_cache(), Checkpoints())

    def fit_all(self, p: Any) -> None:
        """Fit what is not fitted yet. What cannot be fitted is left out of the picture, and the user is told."""
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
        apply_anew({net.name: net.lorax_fit for net in nets})

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
        # What is not final is tried, and what there is to say is said, at the next prompt again.
        net.lorax_fit = wanted if fit.final and not fit.message else (*wanted[:3], fit.message)
        if fit.message:
            tell(p, net.name, fit.message)
        if missing:
            tell(p, net.name, f"{len(missing)} of {len(fit.layers)} layers are not in the loaded checkpoint, as {missing[0]}.")

    def _on_device(self, file: Path, target: Path, progress: Progress) -> Fit:
        try:
            return self._fitter.fit(file, target, self._device(), progress)
        except torch.cuda.OutOfMemoryError:  # the model is there already
            devices.torch_gc()
            return self._fitter.fit(file, target, "cpu", progress)

    def _device(self) -> str:
        if (wanted := self._wanted_device()) != "auto":
            return wanted
        device = devices.device
        return str(device) if device.type in ("cpu", "cuda", "mps") else "cpu"


def is_lorax(net: Any) -> bool:
    """By the header, or by a layer that the network type accepted."""
    return "lorax_format" in net.network_on_disk.metadata or hasattr(net, "lorax_fit")


def tell_of_those_not_loaded(p: Any, names: set[str]) -> None:
    """The host writes to its console alone why it could not load a file, and goes on."""
    for name in sorted(names - {net.mentioned_name for net in networks.loaded_networks}):
        file = networks.available_networks.get(name) or networks.available_network_aliases.get(name)
        if file is not None and "lorax_format" in file.metadata:
            tell(p, name, _unreadable(Path(file.filename)))


def _unreadable(file: Path) -> str:
    try:
        open_adapter(file)
    except (LoraxError, OSError) as error:
        return str(error)
    return "not applied: the WebUI could not load the file with the loaded checkpoint; its console tells why."


def tell(p: Any, name: str, message: str) -> None:
    """In the UI's output, and in the console for those who use the API."""
    p.comment(f"LoRA-X, {name}: {message}")
    log.warning("LoRA-X, %s: %s", name, message)


def leave_out(p: Any, net: Any, why: str) -> None:
    net.lorax_fit, net.modules = None, {}
    tell(p, net.name, why)


def apply_anew(fits: dict[str, Any]) -> None:
    """Where the same networks now hold something else, have the host apply them again. By itself it looks at their names only."""
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
    def show(done: int, total: int, layer: str) -> None:
        state = shared.state
        if state.interrupted or state.skipped:
            raise Interrupted
        state.textinfo = f"LoRA-X: fitting {name}, layer {done} of {total}"
        state.sampling_steps, state.sampling_step = total, done  # the progress bar; sampling sets its own

    return show
