"""What family a base is from, told by its structure and never by its file's name or widths.

A family is one row of ``FAMILIES``. A component is one row of a family: where its layers are in a checkpoint, in a diffusers
folder and in an adapter.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """A part of a base that adapters touch. Prefixes end where the layer's own path begins."""

    name: str  # "unet", "te"; a layer's name begins with it
    title: str  # the same in two families means that their layers do the same
    checkpoint: str  # prefix in an LDM checkpoint
    folder: str  # subfolder of a diffusers pipeline
    kohya: tuple[str, ...]  # prefixes in kohya adapters; the first one is written
    peft: tuple[str, ...]  # prefixes in diffusers and PEFT adapters; where two components share one, the first has it
    also: tuple[str, ...] = ()  # further prefixes in checkpoints, of other tools
    open_clip: bool = False  # an LDM checkpoint holds it as OpenCLIP names it; diffusers folders and adapters never do
    pooled: bool = True  # the pooled text is used. Where it is not, what leads to it (the last layer, the projection) is no layer

    @property
    def prefixes(self) -> tuple[str, ...]:
        """In checkpoints, the usual one first."""
        return self.checkpoint, *self.also


UNET = Component(
    "unet",
    "UNet",
    "model.diffusion_model.",
    "unet",
    ("lora_unet_", "lycoris_"),
    ("unet.", "base_model.model.unet.", "base_model.model."),
)
CLIP_L = Component(
    "te",
    "CLIP ViT-L",
    "cond_stage_model.transformer.",
    "text_encoder",
    ("lora_te_", "lora_te1_"),
    ("text_encoder.", "base_model.model."),
)
OPEN_CLIP_H = Component(
    "te",
    "OpenCLIP ViT-H",
    "cond_stage_model.model.",
    "text_encoder",
    ("lora_te_", "lora_te1_"),
    ("text_encoder.", "base_model.model."),
    also=("conditioner.embedders.0.model.",),  # SD-Turbo
    open_clip=True,
    pooled=False,
)
XL_CLIP_L = Component(
    "te1",
    "CLIP ViT-L",
    "conditioner.embedders.0.transformer.",
    "text_encoder",
    ("lora_te1_",),
    ("text_encoder.", "base_model.model."),
)
XL_BIG_G = Component(
    "te2",
    "OpenCLIP ViT-bigG",
    "conditioner.embedders.1.model.",
    "text_encoder_2",
    ("lora_te2_",),
    ("text_encoder_2.", "base_model.model."),
    open_clip=True,
)


REFINER_BIG_G = dataclasses.replace(
    XL_BIG_G, checkpoint="conditioner.embedders.0.model.", peft=("text_encoder_2.", "text_encoder.", "base_model.model.")
)


@dataclass(frozen=True)
class Signs:
    """What tells UNets of different families apart, whatever their widths."""

    linear_projection: bool  # proj_in is a linear layer (SD 2.x on), not a 1x1 convolution (SD 1.x)
    deep: bool  # some attention module has more than one transformer block
    refiner: bool = False  # deep, with a third downsampler: SDXL's refiner has one level more than SDXL and its pruned siblings


@dataclass(frozen=True)
class Family:
    """One row of the table: how to recognise it, what to call it, and which components can be moved."""

    name: str
    title: str
    signs: Signs
    components: tuple[Component, ...]
    base_version: str  # kohya's ss_base_model_version
    v2: bool  # kohya's ss_v2
    architecture: str  # modelspec.architecture of its LoRAs
    card_version: str  # "sd version" on the WebUI's cards
    velocity: tuple[str, str] | None = None  # base_version and architecture where the base predicts velocity, if others
    adapter_names: str | None = None  # pattern of names of layers that only this family's adapters have
    has_adapters: bool = True  # False: hardly any are trained for it, so an adapter is one of its only if it is given as its base
    ldm_names: bool = False  # kohya's adapters spell its UNet's layers as LDM does, and not as diffusers does

    @property
    def told_as(self) -> set[str]:
        """What trainers write of it into an adapter's header."""
        return {self.base_version, self.architecture, *(self.velocity or ())}

    @property
    def context(self) -> tuple[str, ...]:
        """The text encoders whose outputs, one beside the other, are the input of the UNet's cross-attention."""
        return tuple(component.title for component in self.components if component.name != "unet")


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    signs=Signs(linear_projection=False, deep=False),
    components=(UNET, CLIP_L),
    base_version="sd_v1",
    v2=False,
    architecture="stable-diffusion-v1/lora",
    card_version="SD1",
    velocity=("sd_v1_v", "stable-diffusion-v1/lora"),
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    signs=Signs(linear_projection=True, deep=False),
    components=(UNET, OPEN_CLIP_H),
    base_version="sd_v2",
    v2=True,
    architecture="stable-diffusion-v2-512/lora",
    card_version="SD2",
    velocity=("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    signs=Signs(linear_projection=True, deep=True),
    components=(UNET, XL_CLIP_L, XL_BIG_G),
    base_version="sdxl_base_v1-0",
    v2=False,
    architecture="stable-diffusion-xl-v1-base/lora",
    card_version="SDXL",
    adapter_names=r"lora_te2_|text_encoder_2\.",
    ldm_names=True,
)
SDXL_REFINER = Family(
    name="sdxl_refiner",
    title="Stable Diffusion XL refiner",
    signs=Signs(linear_projection=True, deep=True, refiner=True),
    components=(UNET, REFINER_BIG_G),
    base_version="sdxl_refiner_v1-0",
    v2=False,
    architecture="stable-diffusion-xl-v1-refiner/lora",
    card_version="SDXL",
    has_adapters=False,
    ldm_names=True,
)
FAMILIES = (SD1, SD2, SDXL, SDXL_REFINER)
# What precedes the module's own path in diffusers and PEFT adapters, the longest first.
PEFT_PREFIXES = sorted({prefix for family in FAMILIES for c in family.components for prefix in c.peft}, key=len, reverse=True)
DEEP = r"transformer_blocks[._][1-9]"
DOWNSAMPLER = r"(input_blocks\.\d+\.0\.op|down_blocks\.\d+\.downsamplers\.0\.conv)\.weight"


def detect(shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """The family of a UNet from its parameters' names (in either layout) and numbers of dimensions, or None if it is no UNet."""
    projections = [shape for key, shape in shapes.items() if key.endswith("proj_in.weight")]
    if not projections:
        return None
    deep = any(re.search(DEEP, key) for key in shapes)
    refiner = deep and sum(bool(re.fullmatch(DOWNSAMPLER, key)) for key in shapes) > 2
    signs = Signs(len(projections[0]) == 2, deep, refiner)
    return next((family for family in FAMILIES if family.signs == signs), None)


def told(metadata: Mapping[str, str]) -> Family | None:
    """The family that an adapter's header names in kohya's words or modelspec's; None where it names none of these."""
    words = {metadata.get("ss_base_model_version"), metadata.get("modelspec.architecture")}
    return next((family for family in FAMILIES if words & family.told_as), None)


def detect_adapter(prefixes: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """The family that an adapter was made for, from its layer names and its factors' shapes, or None when they do not tell.

    ``prefixes`` are layer names in any naming; ``shapes`` maps a layer name to the shape of its down factor. An adapter has only
    some of a UNet's layers, so what is absent from it tells nothing.
    """
    prefixes = list(prefixes)
    for family in FAMILIES:
        if family.adapter_names and any(re.match(family.adapter_names, name) for name in prefixes):
            return family
    deep = any(re.search(DEEP, name) for name in prefixes)
    projections = [shapes[name] for name in prefixes if name.endswith(("proj_in", "proj_out")) and name in shapes]
    convolution = any(len(shape) == 4 for shape in projections)  # two dimensions tell nothing: some tools flatten 1x1 kernels
    fitting = [
        family
        for family in FAMILIES
        if family.has_adapters and not (deep and not family.signs.deep) and not (convolution and family.signs.linear_projection)
    ]
    return fitting[0] if len(fitting) == 1 else None
