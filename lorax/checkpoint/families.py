"""The families of bases, which are recognised by their structure, not by names or widths."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """A part of a base that adapters change. Prefixes are followed by the layer's own path."""

    name: str  # "unet", "te"; begins the names of its layers
    title: str  # components of two families with one title are the same model
    checkpoint: str  # prefix in an LDM checkpoint
    folder: str  # subfolder of a diffusers pipeline
    kohya: tuple[str, ...]  # prefixes in kohya adapters; the first one is written
    other_peft: tuple[str, ...] = ()  # prefixes in diffusers and PEFT adapters, besides the folder and ``base_model.model.``
    also: tuple[str, ...] = ()  # further prefixes in the checkpoints of other tools
    open_clip: bool = False  # LDM checkpoints hold it under OpenCLIP's names; diffusers folders and adapters never do
    pooled: bool = True  # the pooled text is used; if not, the last layer and the projection are left out

    @property
    def peft(self) -> tuple[str, ...]:
        """Prefixes in diffusers and PEFT adapters. If two components share one, it is the first one's."""
        return f"{self.folder}.", *self.other_peft, "base_model.model."

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes in checkpoints, the usual one first."""
        return self.checkpoint, *self.also


UNET = Component("unet", "UNet", "model.diffusion_model.", "unet", ("lora_unet_", "lycoris_"), ("base_model.model.unet.",))
CLIP_L = Component("te", "CLIP ViT-L", "cond_stage_model.transformer.", "text_encoder", ("lora_te_", "lora_te1_"))
OPEN_CLIP_H = Component(
    "te",
    "OpenCLIP ViT-H",
    "cond_stage_model.model.",
    "text_encoder",
    ("lora_te_", "lora_te1_"),
    also=("conditioner.embedders.0.model.",),  # SD-Turbo
    open_clip=True,
    pooled=False,
)
XL_CLIP_L = Component("te1", "CLIP ViT-L", "conditioner.embedders.0.transformer.", "text_encoder", ("lora_te1_",))
XL_BIG_G = Component(
    "te2", "OpenCLIP ViT-bigG", "conditioner.embedders.1.model.", "text_encoder_2", ("lora_te2_",), open_clip=True
)
GENERATIVE_MODELS = "https://github.com/Stability-AI/generative-models"
REFINER_BIG_G = dataclasses.replace(XL_BIG_G, checkpoint="conditioner.embedders.0.model.", other_peft=("text_encoder.",))


@dataclass(frozen=True)
class Signs:
    """The structure by which the UNets of different families are told apart."""

    linear_projection: bool  # proj_in is a linear layer (SD 2.x on), not a 1x1 convolution (SD 1.x)
    deep: bool  # at least one attention module has more than one transformer block
    refiner: bool = False  # deep, with a third downsampler: SDXL's refiner has one level more than SDXL and its pruned relatives


@dataclass(frozen=True)
class Family:
    """A family: how it is recognised, what it is called, and which components an adapter can change."""

    name: str
    title: str
    signs: Signs
    components: tuple[Component, ...]
    base_version: str  # kohya's ss_base_model_version
    v2: bool  # kohya's ss_v2
    architecture: str  # modelspec.architecture of its LoRAs
    card_versions: tuple[str, ...]  # "sd version" on WebUIs' cards; the first one is written
    civitai: str  # Civitai's name of its usual base, by which LoRA Manager and others know a LoRA's base
    resolution: int = 512  # of the pictures that its bases draw
    implementation: str = "diffusers"  # modelspec.implementation of its LoRAs, as sd-scripts writes it
    velocity: tuple[str, str] | None = None  # base_version and architecture of bases that predict velocity
    velocity_resolution: int = 512
    adapter_names: str | None = None  # pattern of layer names that only this family's adapters have
    has_adapters: bool = True  # False: adapters for it are rare, and not recognised unless it is the chosen source
    ldm_names: bool = False  # kohya's adapters have LDM's names of its UNet's layers, not diffusers'

    @property
    def text_encoders(self) -> tuple[Component, ...]:
        """The components that are text encoders, in order. Their concatenated outputs are the input of cross-attention."""
        return tuple(component for component in self.components if component.name != "unet")

    @property
    def trainer_names(self) -> set[str]:
        """The names of the family that trainers write into an adapter's header."""
        return {self.base_version, self.architecture, *(self.velocity or ())}


# The values of "sd version" that are written are those of Forge Neo, which knows no others. AUTOMATIC1111, Forge, reForge and
# Forge Classic leave them aside, and tell the version by the LoRA's header.
SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    signs=Signs(linear_projection=False, deep=False),
    components=(UNET, CLIP_L),
    base_version="sd_v1",
    v2=False,
    architecture="stable-diffusion-v1/lora",
    card_versions=("sd", "SD1"),
    civitai="SD 1.5",
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
    card_versions=("SD2",),
    civitai="SD 2.1",
    velocity=("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    velocity_resolution=768,
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    signs=Signs(linear_projection=True, deep=True),
    components=(UNET, XL_CLIP_L, XL_BIG_G),
    base_version="sdxl_base_v1-0",
    v2=False,
    architecture="stable-diffusion-xl-v1-base/lora",
    card_versions=("xl", "SDXL"),
    civitai="SDXL 1.0",
    resolution=1024,
    implementation=GENERATIVE_MODELS,
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
    card_versions=("xl", "SDXL"),
    civitai="SDXL 1.0",
    resolution=1024,
    implementation=GENERATIVE_MODELS,
    has_adapters=False,
    ldm_names=True,
)
FAMILIES = (SD1, SD2, SDXL, SDXL_REFINER)
# Prefixes of a module's own path in diffusers and PEFT adapters, the longest first.
PEFT_PREFIXES = sorted({prefix for family in FAMILIES for c in family.components for prefix in c.peft}, key=len, reverse=True)
DEEP = r"transformer_blocks[._][1-9]"
PROJECTIONS = ("proj_in", "proj_out")  # ends of the names of layers
DOWNSAMPLER = r"(input_blocks\.\d+\.0\.op|down_blocks\.\d+\.downsamplers\.0\.conv)\.weight"


def detect(shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """Return the family of a UNet, from the names (in either layout) and shapes of its parameters; None if unknown."""
    projections = [shape for key, shape in shapes.items() if key.endswith("proj_in.weight")]
    if not projections:
        return None
    deep = any(re.search(DEEP, key) for key in shapes)
    refiner = deep and sum(bool(re.fullmatch(DOWNSAMPLER, key)) for key in shapes) > 2
    signs = Signs(len(projections[0]) == 2, deep, refiner)
    return next((family for family in FAMILIES if family.signs == signs), None)


def of_name(name: str) -> Family | None:
    """Return the family of this name of ours; None if there is none."""
    return next((family for family in FAMILIES if family.name == name), None)


def named_in(metadata: Mapping[str, str]) -> Family | None:
    """Return the family that an adapter's header names in kohya's words or modelspec's; None if it names none."""
    names = {metadata.get("ss_base_model_version"), metadata.get("modelspec.architecture")}
    return next((family for family in FAMILIES if names & family.trainer_names), None)


def detect_adapter(names: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """Return the family that an adapter was made for, from its layers' names and down factors' shapes; None if unknown.

    An adapter has only some of a UNet's layers, so the absence of a layer tells nothing. Shapes count of layers whose names end
    in one of PROJECTIONS.
    """
    for family in FAMILIES:
        if family.adapter_names and any(map(re.compile(family.adapter_names).match, names)):
            return family
    deep = any(map(re.compile(DEEP).search, names))
    projections = [shape for name, shape in shapes.items() if name.endswith(PROJECTIONS)]
    convolution = any(len(shape) == 4 for shape in projections)  # two dimensions tell nothing: some tools flatten 1x1 kernels
    fitting = [
        family
        for family in FAMILIES
        if family.has_adapters and not (deep and not family.signs.deep) and not (convolution and family.signs.linear_projection)
    ]
    return fitting[0] if len(fitting) == 1 else None
