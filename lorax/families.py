"""What family a base is from, told by its structure and never by its file's name or widths.

A family is one row of ``FAMILIES``. A component is one row of a family: where its layers are in a checkpoint, in a diffusers
folder and in an adapter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """A part of a base that adapters touch. Prefixes end where the layer's own path begins."""

    name: str  # "unet", "te"
    checkpoint: str  # prefix in an LDM checkpoint
    folder: str  # subfolder of a diffusers pipeline
    kohya: tuple[str, ...]  # prefixes in kohya adapters; the first one is written
    peft: tuple[str, ...]  # prefixes in diffusers and PEFT adapters


UNET = Component(
    "unet", "model.diffusion_model.", "unet", ("lora_unet_",), ("unet.", "base_model.model.unet.", "base_model.model.")
)
CLIP_L = Component(
    "te", "cond_stage_model.transformer.", "text_encoder", ("lora_te_", "lora_te1_"), ("text_encoder.", "base_model.model.")
)


@dataclass(frozen=True)
class Signs:
    """What tells UNets of different families apart, whatever their widths."""

    linear_projection: bool  # proj_in is a linear layer (SD 2.x on), not a 1x1 convolution (SD 1.x)
    deep: bool  # some attention module has more than one transformer block


@dataclass(frozen=True)
class Family:
    """One row of the table: how to recognise it, what to call it, and which components can be moved."""

    name: str
    title: str
    signs: Signs
    components: tuple[Component, ...]  # empty: recognised, not supported yet
    base_version: str  # kohya's ss_base_model_version
    architecture: str  # modelspec.architecture of its LoRAs


SD1 = Family(
    "sd1", "Stable Diffusion 1.x", Signs(False, False), (UNET, CLIP_L), "sd_v1", "stable-diffusion-v1/lora"
)  # fmt: skip
SD2 = Family("sd2", "Stable Diffusion 2.x", Signs(True, False), (), "sd_v2", "stable-diffusion-v2-512/lora")
SDXL = Family("sdxl", "Stable Diffusion XL", Signs(True, True), (), "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")
FAMILIES = (SD1, SD2, SDXL)


def detect(shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """The family of a UNet from its parameters' names (in either layout) and numbers of dimensions, or None if it is no UNet."""
    projections = [shape for key, shape in shapes.items() if key.endswith("proj_in.weight")]
    if not projections:
        return None
    deep = any(re.search(r"transformer_blocks\.[1-9]", key) for key in shapes)
    signs = Signs(linear_projection=len(projections[0]) == 2, deep=deep)
    return next((family for family in FAMILIES if family.signs == signs), None)


def detect_adapter(prefixes: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """The family that an adapter was made for, from its layer names and its factors' shapes, or None when they do not tell.

    ``prefixes`` are layer names in any naming; ``shapes`` maps a layer name to the shape of its down factor.
    """
    prefixes = list(prefixes)
    if any(re.match(r"lora_te2_|text_encoder_2\.", name) or re.search(r"transformer_blocks[._][1-9]", name) for name in prefixes):
        return SDXL
    projections = [shapes[name] for name in prefixes if name.endswith(("proj_in", "proj_out")) and name in shapes]
    if any(len(shape) == 4 for shape in projections):  # two dimensions tell nothing: some tools flatten 1x1 convolutions
        return SD1
    return None
