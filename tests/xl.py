"""Small synthetic SDXL bases and adapters, written from the structure in Stability's configuration, as in ``builders``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.builders import UNET, State
from tests.structure import Param, text_params, unet_params

TE1, TE2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


@dataclass(frozen=True)
class Size:
    """``down``: transformer blocks of each attention module of a level; ``up``: of each module, from the deepest level on."""

    down: tuple[int, ...] = (0, 2, 4)
    middle: int | None = 4  # None: no attention, and as in the WebUI's SSD-1B no second residual block either
    up: tuple[tuple[int, ...], ...] = ((4, 4, 4), (2, 2, 2), (0, 0, 0))
    channels: tuple[int, ...] = (32, 64, 96)
    first: int = 32  # widths of the text encoders
    second: int = 64
    text_layers: tuple[int, int] = (2, 3)
    vocabulary: int = 99

    @property
    def pooled(self) -> int:
        """Width of what the timestep embedding is given: the pooled text and six sizes."""
        return self.second + 6 * self.channels[0]

    def unet(self) -> list[Param]:
        cross, down = self.first + self.second, [(depth, depth) for depth in self.down]
        return list(unet_params(self.channels, cross, down, self.middle, self.up, linear=True, pooled=self.pooled))

    def text(self) -> tuple[list[Param], list[Param]]:
        first, second = zip((self.first, self.second), self.text_layers, strict=True)
        projection = Param("text_projection.weight", "text_projection.weight", (self.second, self.second))
        return list(text_params(*first, self.vocabulary)), [*text_params(*second, self.vocabulary), projection]

    def components(self) -> dict[str, list[Param]]:
        first, second = self.text()
        return {"unet": self.unet(), "te1": first, "te2": second}


XL = Size()
# What Segmind removed, with 4 transformer blocks for SDXL's 10 and 2 for SSD-1B's 4.
SSD = replace(XL, down=(0, 2, 2), middle=None, up=((2, 2, 4), (2, 1, 1), (0, 0, 0)))
VEGA = replace(XL, down=(0, 1, 2), middle=None, up=((2, 2, 2), (1, 1, 1), (0, 0, 0)))
FULL = Size((0, 2, 10), 10, ((10, 10, 10), (2, 2, 2), (0, 0, 0)), (320, 640, 1280), 768, 1280, (12, 32), 49408)
FULL_SSD = replace(FULL, down=(0, 2, 4), middle=None, up=((4, 4, 10), (2, 1, 1), (0, 0, 0)))
SIZES = {"sdxl": FULL, "ssd-1b": FULL_SSD, "narrow": XL, "narrow ssd-1b": SSD, "narrow vega": VEGA}


# --- bases -------------------------------------------------------------------------------------------------------------------


def base(seed: int = 0, size: Size = XL) -> State:
    """A random base: ``<component>.<path>`` -> tensor, the UNet's in LDM's layout and the text encoders' in transformers'."""
    made = torch.Generator().manual_seed(seed)
    return {
        f"{component}.{param.ldm}": torch.randn(param.shape, generator=made) / max(1, int(np.prod(param.shape[1:]))) ** 0.5
        for component, params in size.components().items()
        for param in params
    }


def relative(of: State, seed: int = 1, noise: float = 0.02) -> State:
    made = torch.Generator().manual_seed(seed)
    return {
        key: value + noise * value.std() * torch.randn(value.shape, generator=made) if value.dim() > 1 else value
        for key, value in of.items()
    }


def pruned(of: State, size: Size, origin: Callable[[str, int], int] = lambda module, number: number) -> State:
    """What a pruned relative keeps: of every attention module as many transformer blocks as ``size`` has.

    ``origin(module, number)`` says which of the module's blocks becomes block ``number``; the first ones are kept by default.
    """
    kept = {}
    for component, params in size.components().items():
        for param in params:
            head, found, rest = param.ldm.partition(".transformer_blocks.")
            number, dot, inside = rest.partition(".")
            source = f"{head}{found}{origin(head, int(number))}{dot}{inside}" if found else param.ldm
            kept[f"{component}.{param.ldm}"] = of[f"{component}.{source}"].clone()
    return kept


def save(state: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a base as Stability lays a checkpoint out, with Stability's own key of another part."""
    tensors = {}
    for key, value in state.items():
        component, _, inside = key.partition(".")
        if component != "te2":
            tensors[{"unet": UNET, "te1": TE1}[component] + inside] = value
    tensors |= {TE2 + key: value for key, value in open_clip(text(state, "te2")).items()}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(8, 4, 3, 3)
    tensors = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    return path


def save_folder(state: State, path: Path, size: Size = XL, text_prefix: str = "text_model.") -> Path:
    """Write a base as a diffusers folder. transformers 5 writes the text encoders without ``text_model.``."""
    unet = {param.diffusers: state[f"unet.{param.ldm}"].contiguous() for param in size.unet()}
    texts = [
        {key.replace("text_model.", text_prefix): value.contiguous() for key, value in text(state, component).items()}
        for component in ("te1", "te2")
    ]
    for folder, name, tensors in (
        ("unet", "diffusion_pytorch_model.safetensors", unet),
        ("text_encoder", "model.safetensors", texts[0]),
        ("text_encoder_2", "model.safetensors", texts[1]),
    ):
        (path / folder).mkdir(parents=True)
        save_file(tensors, path / folder / name)
    return path


def text(state: Mapping[str, torch.Tensor], component: str) -> State:
    return {key.removeprefix(f"{component}."): value for key, value in state.items() if key.startswith(f"{component}.")}


def open_clip(state: State) -> State:
    """A text encoder of transformers with OpenCLIP's names: q, k and v in one weight, the projection transposed."""
    found = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6),
    }
    for part in ("weight", "bias"):
        found[f"ln_final.{part}"] = state[f"text_model.final_layer_norm.{part}"]
        number = 0
        while (head := f"text_model.encoder.layers.{number}") + ".mlp.fc1.weight" in state:
            block = f"transformer.resblocks.{number}"
            fused = [state[f"{head}.self_attn.{x}_proj.{part}"] for x in "qkv"]
            found[f"{block}.attn.in_proj_{part}"] = torch.cat(fused)
            for theirs, ours in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                found[f"{block}.{theirs}.{part}"] = state[f"{head}.{ours}.{part}"]
            number += 1
    return found


# --- adapters ----------------------------------------------------------------------------------------------------------------

NAMINGS = ("kohya", "kohya-diffusers", "peft", "peft-short")


@cache
def layers(size: Size = XL) -> dict[str, Param]:
    """Layer -> its parameter, for all layers of the base."""
    return {
        f"{component}.{param.ldm.removesuffix('.weight')}": param
        for component, params in size.components().items()
        for param in params
        if param.is_layer
    }


def spelled(layer: str, size: Size, naming: str) -> str:
    """Return a layer's name in an adapter of kohya's sd-scripts, of its converters, or of PEFT with transformers 4 or 5."""
    component, _, path = layer.partition(".")
    diffusers = layers(size)[layer].diffusers.removesuffix(".weight")
    if naming.startswith("kohya"):
        inside = diffusers if naming == "kohya-diffusers" else path
        return f"lora_{component}_" + inside.replace(".", "_")
    if naming == "peft-short":
        diffusers = diffusers.removeprefix("text_model.")
    return {"unet": "unet.", "te1": "text_encoder.", "te2": "text_encoder_2."}[component] + diffusers


def trained(size: Size = XL) -> list[str]:
    """What kohya trains by default: the attention modules of the UNet and the encoders' linear layers."""
    return [
        layer
        for layer, param in layers(size).items()
        if ".transformer_blocks." in layer or ".proj_" in layer or ".encoder." in layer
    ]


def save_lora(
    path: Path,
    names: Iterable[str],
    naming: str = "kohya",
    size: Size = XL,
    rank: int = 2,
    metadata: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Write an adapter of these layers; return layer -> dW in float64, which float32 factors hold exactly."""
    made = torch.Generator().manual_seed(11)
    params, tensors, dense = layers(size), {}, {}
    up_key, down_key = (
        (".lora_up.weight", ".lora_down.weight") if naming.startswith("kohya") else (".lora_B.weight", ".lora_A.weight")
    )
    for layer in names:
        m, n, *kernel = params[layer].shape
        up = torch.randn(m, rank, *(1 for _ in kernel), generator=made)
        down = torch.randn(rank, n, *kernel, generator=made)
        name = spelled(layer, size, naming)
        tensors |= {name + up_key: up, name + down_key: down}
        if naming.startswith("kohya"):
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
        scale = 1.0 / rank if naming.startswith("kohya") else 1.0
        dense[layer] = scale * up.double().flatten(1).numpy() @ down.double().flatten(1).numpy()
    save_file(tensors, path, metadata)
    return dense
