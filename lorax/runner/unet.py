"""Loads a checkpoint's UNet. Its structure is read from the header, so a pruned model needs no configuration of its own."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from lorax.checkpoint import ModelConfig, UNetNames, families
from lorax.errors import LoraxError
from lorax.files import Part, TensorFile
from lorax.runner.loading import load

UNKNOWN = "Its structure is none that is known here: compare in the WebUI instead."
TIME_IDS = 6  # SDXL's: original height and width, the crop's top and left, target height and width


def load_unet(
    file: TensorFile,
    settings: ModelConfig,
    pooled: int | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> UNet2DConditionModel:
    """Load the UNet. ``pooled``: the width of SDXL's pooled text. Raises LoraxError if diffusers does not have its structure."""
    prefix = families.UNET.checkpoint
    paths = [key.removeprefix(prefix) for key in file.shapes if key.startswith(prefix)]
    names = UNetNames.from_ldm(paths)
    keys = {names.to_diffusers(path): prefix + path for path in paths if names.has_ldm(path)}
    try:
        config = unet_config({name: file.shapes[key] for name, key in keys.items()}, settings, pooled)
    except (KeyError, IndexError, StopIteration) as error:
        raise LoraxError(
            f"{file.path}: the UNet lacks what every Stable Diffusion UNet has ({error}). Use a whole checkpoint."
        ) from error
    except LoraxError as error:
        raise LoraxError(f"{file.path}: {error}") from error

    def part_of(name: str) -> Part:
        if name not in keys:
            raise LoraxError(f"{file.path}: the UNet has no {name}, which its other keys call for. {UNKNOWN}")
        return Part(file, keys[name])

    try:
        unet = load(partial(UNet2DConditionModel, **config), part_of, device, dtype)
    except (ValueError, IndexError) as error:  # diffusers, of widths without 32 groups or of levels that lack a block
        raise LoraxError(f"{file.path}: diffusers can build no such UNet ({error}). {UNKNOWN}") from error
    if surplus := keys.keys() - unet.state_dict().keys():
        raise LoraxError(f"{file.path}: {keys[min(surplus)]} has no place in the UNet that the other keys describe. {UNKNOWN}")
    return unet


def unet_config(shapes: Mapping[str, tuple[int, ...]], settings: ModelConfig, pooled: int | None) -> dict[str, Any]:
    """Return the arguments of ``UNet2DConditionModel`` for parameters of these shapes, by diffusers' names."""
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    widths = [shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
    layers = [_count(shapes, rf"down_blocks\.{level}\.resnets\.(\d+)\.") for level in range(levels)]
    down = [_depths(shapes, f"down_blocks.{level}") for level in range(levels)]
    up = [_depths(shapes, f"up_blocks.{level}") for level in range(levels)]
    middle = _depths(shapes, "mid_block")
    depths: list[Any] = [level or 1 for level in down]
    if not down[-1] and middle:
        depths[-1] = middle  # diffusers gives the middle block the depth of the deepest level
    config: dict[str, Any] = {
        "sample_size": settings.size,
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if level else "DownBlock2D" for level in down],
        "mid_block_type": _middle(shapes, middle),
        "up_block_types": ["CrossAttnUpBlock2D" if level else "UpBlock2D" for level in up],
        "transformer_layers_per_block": depths,
        "reverse_transformer_layers_per_block": [level or 1 for level in up],
        "attention_head_dim": [
            settings.heads_at(width) if attends or (middle and level == levels - 1) else 1
            for level, (width, attends) in enumerate(zip(widths, down, strict=True))
        ],  # diffusers means the number of heads
        "cross_attention_dim": next(shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")),
        "use_linear_projection": any(name.endswith("proj_in.weight") and len(shape) == 2 for name, shape in shapes.items()),
    }
    if labels := shapes.get("add_embedding.linear_1.weight"):
        if pooled is None or labels[1] <= pooled or (labels[1] - pooled) % TIME_IDS:
            raise LoraxError(
                f"the UNet's label embedding takes {labels[1]} values; expected pooled text ({pooled or 'none'}) and "
                f"{TIME_IDS} equally wide embeddings of sizes. Use a checkpoint of SDXL's base, with both text encoders."
            )
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (labels[1] - pooled) // TIME_IDS,
            "projection_class_embeddings_input_dim": labels[1],
        }
    return config


def time_ids(count: int, height: int, width: int) -> torch.Tensor:
    """Return SDXL's size conditioning (count, TIME_IDS) for uncropped pictures of ``height`` by ``width`` pixels."""
    return torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)


def _middle(shapes: Mapping[str, tuple[int, ...]], depths: list[int]) -> str | None:
    """Return the type of the middle block. BK-SDM-Tiny and KOALA 700M have none; SSD-1B and Vega have a residual block alone."""
    if depths:
        return "UNetMidBlock2DCrossAttn"
    return "UNetMidBlock2D" if any(name.startswith("mid_block.") for name in shapes) else None


def _depths(shapes: Mapping[str, tuple[int, ...]], block: str) -> list[int]:
    """Return the number of transformer blocks in each attention module of the block."""
    prefix = rf"{re.escape(block)}\.attentions"
    return [
        _count(shapes, rf"{prefix}\.{module}\.transformer_blocks\.(\d+)\.")
        for module in range(_count(shapes, rf"{prefix}\.(\d+)\."))
    ]


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """Count the different values of the pattern's group among the names."""
    return len({found[1] for name in shapes if (found := re.match(pattern, name))})
