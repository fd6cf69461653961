"""The network type of LoRA-X files, and the WebUI's modules of a fitted file."""

import re
from typing import Any

import network
import network_lora
import torch
from modules import shared

from lorax.formats import loraxfile

# Component -> prefix of its modules' names in the WebUI (``assign_network_names_to_compvis_modules``).
PREFIXES = {"unet": "diffusion_model_", "te": "transformer_", "te1": "0_transformer_", "te2": "1_model_"}
# transformers' names -> OpenCLIP's, which the WebUI uses in te2 (``convert_diffusers_name_to_compvis``).
OPEN_CLIP = {"encoder.layers": "transformer.resblocks", "self_attn": "attn", "fc1": "c_fc", "fc2": "c_proj", "text_model.": ""}


class ModuleTypeLorax(network.ModuleType):
    """The network type. It accepts layers of LoRA-X files of any version, so that the WebUI loads the file."""

    def create_module(self, net: Any, weights: Any) -> Any:
        if any(part.startswith(loraxfile.PREFIX) for part in weights.w):
            net.lorax_fit = None
            return Unfitted()
        return None


class Unfitted:
    """A placeholder for a layer until the file is fitted, since the source's layers are not the loaded checkpoint's."""

    def calc_updown(self, orig_weight: torch.Tensor) -> Any:
        raise RuntimeError("a LoRA-X file was not fitted to the checkpoint")  # the WebUI counts errors and shows the number

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y


def names_of(layer: str) -> tuple[str, str]:
    """Return the WebUI's names of a layer's network and of its module. OpenCLIP has one module for q, k and v."""
    component, _, path = layer.partition(".")
    if component == "te2":
        for ours, theirs in OPEN_CLIP.items():
            path = path.replace(ours, theirs)
    name = PREFIXES[component] + path.replace(".", "_")
    return name, re.sub(r"_[qkv]_proj$", "", name) if component == "te2" else name


def modules_of(net: Any, layers: dict[str, dict[str, torch.Tensor]]) -> tuple[dict[str, Any], list[str]]:
    """Return the WebUI's modules of a plain LoRA with these layers, and the layers that the loaded checkpoint lacks."""
    made, missing = {}, []
    for layer, parts in layers.items():
        name, owner = names_of(layer)
        module = shared.sd_model.network_layer_mapping.get(owner)
        if module is None:
            missing.append(layer)
            continue
        weights = network.NetworkWeights(network_key=layer, sd_key=name, w=dict(parts), sd_module=module)
        made[name] = network_lora.NetworkModuleLora(net, weights)
    return made, missing
