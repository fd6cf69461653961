"""Fits the LoRA-X files that a prompt activates to the loaded checkpoint, before a picture is drawn."""

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networks
from modules import shared

from lorax.errors import LoraxError
from lorax.files import Cache, stamp
from lorax.formats import loraxfile, open_adapter
from lorax.hosts.a1111.network.fitting import Fitting, NetworkScript, attempted, forget_encoded, tell
from lorax.hosts.a1111.network.module_type import modules_of

STALE = ("a LoRA-X file was fitted again",)  # differs from every set of networks that a layer can have


def make_script(cache: Callable[[], Cache], device: Callable[[], str]) -> type:
    """Make the script class that the WebUI calls once networks are activated."""
    activation = Activation(Fitting(cache, device))

    class LoraxNetworks(NetworkScript):
        def after_extra_networks_activate(self, p: Any, *args: Any, extra_network_data: dict[str, Any], **kwargs: Any) -> None:
            report_unloaded(p, {asked.positional[0] for asked in extra_network_data.get("lora", [])})
            activation.fit_all(p)

    return LoraxNetworks


class Activation:
    """The fitting of activated networks."""

    def __init__(self, fitting: Fitting) -> None:
        self._fitting = fitting

    def fit_all(self, p: Any) -> None:
        """Fit the networks that are not fitted yet. One that cannot be fitted is left out of the picture, with a message.

        A plain LoRA whose file was replaced, as by a transfer, is applied anew, too.
        """
        if not (loaded := list(dict.fromkeys(networks.loaded_networks))):
            return
        nets = [net for net in loaded if is_lorax(net)]
        for net in nets:
            if why := attempted(partial(self._fit, p, net)):
                net.lorax_fit, net.modules = None, {}
                tell(p, net.name, why)
        apply_again({net.name: net.lorax_fit for net in nets}, {net.name: net.mtime for net in loaded if net not in nets})

    def _fit(self, p: Any, net: Any) -> None:
        file, model = Path(net.network_on_disk.filename), shared.sd_model
        target = Path(model.sd_checkpoint_info.filename)
        wanted = (stamp(file), stamp(target), model.sd_checkpoint_info.sha256, "fitted")
        if getattr(net, "lorax_fit", None) == wanted and net.lorax_model() is model:
            return
        fit = self._fitting.fit(net.name, file, target)
        net.modules, missing = modules_of(net, fit.layers)
        net.lorax_model = weakref.ref(model)
        # A fit that is not final, or that has a message, is repeated at the next prompt.
        net.lorax_fit = wanted if fit.final and not fit.message else (*wanted[:3], fit.message)
        if fit.message:
            tell(p, net.name, fit.message)
        if missing:
            tell(p, net.name, f"{len(missing)} of {len(fit.layers)} layers are not in the loaded checkpoint, as {missing[0]}.")


def is_lorax(net: Any) -> bool:
    """Tell whether a network is a LoRA-X file, by its header or by a layer that the network type accepted."""
    return loraxfile.MARK in net.network_on_disk.metadata or hasattr(net, "lorax_fit")


def report_unloaded(p: Any, names: set[str]) -> None:
    """Tell the user which LoRA-X files were not loaded, and why. The WebUI itself writes that to its console only."""
    for name in sorted(names - {net.mentioned_name for net in networks.loaded_networks}):
        file = networks.available_networks.get(name) or networks.available_network_aliases.get(name)
        if file is None or loraxfile.MARK not in file.metadata:
            continue
        message = "not applied: the WebUI could not load the file with the loaded checkpoint; its console tells why."
        try:
            open_adapter(Path(file.filename))
        except (LoraxError, OSError) as error:
            message = str(error)
        tell(p, name, message)


def apply_again(fits: dict[str, Any], files: dict[str, float]) -> None:
    """Have the WebUI apply the networks again if one has another fit or file now. By itself it compares their names only.

    ``fits``: by name those of LoRA-X files; ``files``: when the files of the others were changed. Those not seen before are new,
    and the WebUI applies them by itself.
    """
    model = shared.sd_model
    applied = model.__dict__.setdefault("lorax_applied", {})
    is_fitted = any(applied.get(name) != fit for name, fit in fits.items())
    is_replaced = any(applied.get(name, changed) != changed for name, changed in files.items())
    applied.update(fits | files)
    if not (is_fitted or is_replaced):
        return
    for module in model.network_layer_mapping.values():
        if getattr(module, "network_current_names", ()):
            module.network_current_names = STALE
    forget_encoded()
