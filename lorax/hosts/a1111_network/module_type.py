"""The network type, and the modules that a fitted file becomes."""

from __future__ import annotations

from typing import Any

import network
import network_lora
import torch
from modules import shared

from lorax.formats import loraxfile

# Our component -> how the host's names of its modules begin (``assign_network_names_to_compvis_modules``).
PREFIXES = {"unet": "diffusion_model_", "te": "transformer_"}


class ModuleTypeLorax(network.ModuleType):
    """Accepts the layers of LoRA-X files of any version, so that the host loads the file instead of dropping it."""

    def create_module(self, net: Any, weights: Any) -> Any:
        if any(part.startswith(loraxfile.PREFIX) for part in weights.w):
            net.lorax_fit = None
            return Unfitted()
        return None


class Unfitted:
    """Stands in for a layer until the file is fitted: the source's layers are not the loaded checkpoint's."""

    def calc_updown(self, orig_weight: torch.Tensor) -> Any:
        raise RuntimeError("a LoRA-X file was not fitted to the checkpoint")  # the host counts it and tells the user

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y


def modules_of(net: Any, layers: dict[str, dict[str, torch.Tensor]]) -> tuple[dict[str, Any], list[str]]:
    """The host's modules of a plain LoRA with these layers, and the layers that the loaded checkpoint lacks."""
    live = shared.sd_model.network_layer_mapping
    made, missing = {}, []
    for layer, parts in layers.items():
        component, _, path = layer.partition(".")
        name = PREFIXES[component] + path.replace(".", "_")
        if name not in live:
            missing.append(layer)
            continue
        weights = network.NetworkWeights(network_key=layer, sd_key=name, w=dict(parts), sd_module=live[name])
        made[name] = network_lora.NetworkModuleLora(net, weights)
    return made, missing
