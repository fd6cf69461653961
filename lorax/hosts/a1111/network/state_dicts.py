"""LoRA-X files in WebUIs that patch LoRAs in from the tensors of their files: Forge, Forge Neo and reForge.

They read the tensors with ``networks.load_lora_state_dict``. Ours takes its place, and returns a plain LoRA's tensors for a
LoRA-X file, fitted to the loaded checkpoint. How tensors are applied is left to the WebUI.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networks
import torch
from modules import sd_models

from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.files import Cache, Stamp, open_tensors, stamp
from lorax.formats import loraxfile
from lorax.hosts.a1111.network.fitting import Fitting, NetworkScript, attempted, forget_encoded, tell

Tensors = Mapping[str, torch.Tensor]
NOTHING = {"lorax_not_applied": torch.zeros(1)}  # a LoRA without layers, since Neo divides by how many keys there are
AGAIN = "LoRA-X has other tensors now"  # differs from every text of networks that a model can have


def make_script(cache: Callable[[], Cache], device: Callable[[], str]) -> type:
    """Take the place of the WebUI's function; return the script class that it calls before and after it loads networks."""
    original = getattr(networks.load_lora_state_dict, "lorax_original", networks.load_lora_state_dict)  # Reload UI calls again
    loading = Loading(Fitting(cache, device), original)

    def load_lora_state_dict(filename: str) -> Any:
        return loading.load(filename)

    load_lora_state_dict.lorax_original = original  # type: ignore[attr-defined]
    networks.load_lora_state_dict = load_lora_state_dict

    class LoraxNetworks(NetworkScript):
        def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
            loading.look_again()

        def after_extra_networks_activate(self, p: Any, *args: Any, **kwargs: Any) -> None:
            for name, message in loading.messages().items():
                tell(p, name, message)

    return LoraxNetworks


@dataclass(frozen=True)
class Outcome:
    """What became of a file on a model: the files that it was made of, as they were then, and a message."""

    files: tuple[Stamp, ...]
    message: str = ""


class Loading:
    """The loading of LoRAs. ``read`` is the WebUI's own function.

    The outcomes are kept on the WebUI's model, as is its own note of the networks that it has.
    """

    def __init__(self, fitting: Fitting, read: Callable[[str], Any]) -> None:
        self._fitting, self._read = fitting, read

    def load(self, filename: str) -> Any:
        """Return the tensors of a LoRA's file. One that cannot be fitted has none, so that others are still applied."""
        model = sd_models.model_data.get_sd_model()
        known = _outcomes(model)
        if not is_lorax(filename):
            outcome, tensors = Outcome(_stamps(filename)), None
        else:
            outcome, tensors = self._fitted(filename, model)
        if known.get(filename) != outcome:
            forget_encoded()
            getattr(self._read, "cache_clear", lambda: None)()  # some WebUIs keep what they have read, however old it is
        known[filename] = outcome
        return self._read(filename) if tensors is None else tensors or dict(NOTHING)

    def look_again(self) -> None:
        """Have the WebUI load its networks again if one would be another now. By itself it compares names and strengths."""
        model = sd_models.model_data.get_sd_model()
        files = {net.network_on_disk.filename for net in networks.loaded_networks} & _outcomes(model).keys()
        if not all(self._is_current(filename, model) for filename in files):
            _load_again(model)

    def messages(self) -> dict[str, str]:
        """Return what there is to tell of the networks of this picture, by their names."""
        known = _outcomes(sd_models.model_data.get_sd_model())
        nets = {net.name: known.get(net.network_on_disk.filename) for net in networks.loaded_networks}
        return {name: outcome.message for name, outcome in nets.items() if outcome and outcome.message}

    def _is_current(self, filename: str, model: Any) -> bool:
        """Tell whether the file would have the same outcome now. What is told of a file may not be so any more."""
        known = _outcomes(model)[filename]
        if not known.message:
            return known.files == _stamps(*(path for path, _, _ in known.files))
        return self._fitted(filename, model)[0] == known

    def _fitted(self, filename: str, model: Any) -> tuple[Outcome, Tensors]:
        target = model.sd_checkpoint_info.filename
        files = _stamps(filename, target)
        made = attempted(lambda: self._plain_lora(Path(filename), Path(target)))
        return (Outcome(files, made), {}) if isinstance(made, str) else (Outcome(files, made[0]), made[1])

    def _plain_lora(self, file: Path, target: Path) -> tuple[str, Tensors]:
        """Return a message, and the tensors under kohya's keys."""
        fit, names = self._fitting.fit(file.stem, file, target), open_checkpoint(target).names
        layers = fit.layers.items()
        return fit.message, {f"{names.kohya(layer)}.{part}": tensor for layer, parts in layers for part, tensor in parts.items()}


def is_lorax(filename: str) -> bool:
    """Tell whether the file is a LoRA-X file, by its header as it is now, or was when the WebUI listed a damaged one."""
    try:
        return filename.lower().endswith(".safetensors") and loraxfile.is_ours(open_tensors(Path(filename)))
    except LoraxError:
        listed = (net for net in list(networks.available_networks.values()) if net.filename == filename)
        return any(loraxfile.MARK in net.metadata for net in listed)


def _load_again(model: Any) -> None:
    """Have the WebUI load the networks of this model again, and Forge put them into the weights again, which compares anew."""
    model.current_lora_hash = AGAIN
    for patcher in (model.forge_objects.unet, model.forge_objects.clip.patcher):
        if hasattr(patcher, "lora_loader"):
            patcher.lora_loader.loaded_hash = AGAIN


def _outcomes(model: Any) -> dict[str, Outcome]:
    found: dict[str, Outcome] = model.__dict__.setdefault("lorax_outcomes", {})
    return found


def _stamps(*filenames: str) -> tuple[Stamp, ...]:
    """Return the state of these files; ones that are gone have none."""
    return tuple(stamp(path) for path in map(Path, filenames) if path.exists())
