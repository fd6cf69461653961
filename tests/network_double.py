"""A stand-in for as much of the WebUI as the network type uses."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from lorax.checkpoint import open_checkpoint
from tests import builders


class Weights(NamedTuple):
    network_key: str
    sd_key: str
    w: dict[str, torch.Tensor]
    sd_module: Any


class Loaded:
    """A model or a network, on which the host and extensions keep what they like."""


class Host:
    """The parts of the WebUI that the network type uses, with one loaded checkpoint whose layers are plain objects.

    ``tests/webui/test_double.py`` compares ``modules`` with a real checkout.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = SimpleNamespace(interrupted=False, skipped=False, textinfo=None, sampling_step=0, sampling_steps=0)
        self.shared = SimpleNamespace(state=self.state, sd_model=None)
        self.networks = SimpleNamespace(module_types=["the host's own"], loaded_networks=[])
        self.checkpoints: dict[str, Any] = {}
        lora = SimpleNamespace(NetworkModuleLora=lambda net, weights: weights)
        processing = SimpleNamespace(cached_c=[1, 2], cached_uc=[1, 2], cached_hr_c=[1, 2], cached_hr_uc=[1, 2])
        self.encoded = processing
        modules = {
            "networks": self.networks,
            "network": SimpleNamespace(ModuleType=object, NetworkWeights=Weights),
            "network_lora": lora,
            "modules": ModuleType("modules"),
            "modules.devices": SimpleNamespace(
                device=torch.device("cpu"), torch_gc=lambda: None, without_autocast=lambda disable=False: torch.no_grad()
            ),
            "modules.processing": SimpleNamespace(
                StableDiffusionProcessing=processing, StableDiffusionProcessingTxt2Img=processing
            ),
            "modules.scripts": SimpleNamespace(Script=object, AlwaysVisible="always"),
            "modules.sd_models": SimpleNamespace(checkpoints_list=self.checkpoints),
            "modules.shared": self.shared,
        }
        self.modules = modules
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
            if name.startswith("modules."):
                setattr(modules["modules"], name.removeprefix("modules."), module)
        for name in [name for name in sys.modules if name.startswith("lorax.hosts.a1111.network")]:
            monkeypatch.delitem(sys.modules, name)

    def know(self, *paths: Path) -> None:
        for path in paths:
            self.checkpoints[path.name] = SimpleNamespace(filename=str(path), sha256=builders.sha256(path))

    def load(self, path: Path) -> None:
        class Model:
            """A model that can be referred to weakly, as the host's."""

        prefixes = {"unet": "diffusion_model_", "te": "transformer_"}
        names = [layer.partition(".") for layer in open_checkpoint(path).layers]
        model: Any = Model()
        model.network_layer_mapping = {
            prefixes[head] + inside.replace(".", "_"): SimpleNamespace(network_current_names=(("x", 1.0),))
            for head, _, inside in names
        }
        model.sd_checkpoint_info = SimpleNamespace(filename=str(path), sha256=builders.sha256(path))
        self.shared.sd_model = model

    def activate(self, script: type, *nets: Any) -> list[str]:
        """Activate networks in a prompt; return the messages."""
        self.networks.loaded_networks[:] = nets
        for net in nets:
            net.mentioned_name = net.name
        asked = {"lora": [SimpleNamespace(positional=[net.name]) for net in nets]}
        messages: list[str] = []
        script().after_extra_networks_activate(SimpleNamespace(comment=messages.append), batch_number=0, extra_network_data=asked)
        return messages

    @property
    def applied_anew(self) -> bool:
        model = self.shared.sd_model
        return all(module.network_current_names != (("x", 1.0),) for module in model.network_layer_mapping.values())


class PatchingHost(Host):
    """A WebUI that patches LoRAs in from the tensors of their files, as Forge, Neo and reForge do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.reads: list[str] = []
        del self.networks.module_types

        @functools.lru_cache(maxsize=5)
        def load_lora_state_dict(filename: str) -> dict[str, torch.Tensor]:
            self.reads.append(Path(filename).name)
            return load_file(filename)

        self.networks.load_lora_state_dict = load_lora_state_dict
        models = self.modules["modules.sd_models"]
        models.model_data = SimpleNamespace(get_sd_model=lambda: self.shared.sd_model)

    def load(self, path: Path) -> None:
        info = SimpleNamespace(filename=str(path), sha256=builders.sha256(path))
        unet, clip = (SimpleNamespace(lora_loader=SimpleNamespace(loaded_hash=str([]))) for _ in range(2))
        objects = SimpleNamespace(unet=unet, clip=SimpleNamespace(patcher=clip))
        self.shared.sd_model = SimpleNamespace(sd_checkpoint_info=info, current_lora_hash=str([]), forge_objects=objects)

    def draw(self, script: Any, *files: Path) -> tuple[list[str], list[dict[str, torch.Tensor]] | None]:
        """Draw with these LoRAs; return the messages, and the tensors that were applied, or None if those before stayed.

        As in Forge, names and strengths are compared twice: before files are read, and before weights are changed.
        """
        model, messages = self.shared.sd_model, []  # type: ignore[var-annotated]
        self.networks.available_networks = {
            file.stem: SimpleNamespace(filename=str(file), metadata=metadata_of(file)) for file in files
        }
        p = SimpleNamespace(comment=messages.append)
        script.before_process_batch(p, batch_number=0)
        self.networks.loaded_networks[:] = [
            SimpleNamespace(name=file.stem, network_on_disk=SimpleNamespace(filename=str(file))) for file in files
        ]
        applied, wanted = None, str([[str(file), 1.0, 1.0] for file in files])
        if model.current_lora_hash != wanted:
            model.current_lora_hash = wanted
            applied = [self.networks.load_lora_state_dict(str(file)) for file in files]
            for patcher in (model.forge_objects.unet, model.forge_objects.clip.patcher):
                applied = None if patcher.lora_loader.loaded_hash == wanted else applied
                patcher.lora_loader.loaded_hash = wanted
        script.after_extra_networks_activate(p, batch_number=0, extra_network_data={})
        return messages, applied


def metadata_of(file: Path) -> dict[str, str]:
    """A file's metadata as WebUIs read it, who do not look at the rest of the file."""
    content = file.read_bytes()
    found: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    return found
