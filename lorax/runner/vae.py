"""The autoencoder of a checkpoint."""

from __future__ import annotations

import re
from functools import partial

import torch
from diffusers import AutoencoderKL

from lorax.errors import LoraxError
from lorax.runner.loading import load
from lorax.tensors import Part, TensorFile

PREFIX = "first_stage_model."
_PATTERNS = (
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2"),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


def ldm_name(name: str, levels: int) -> str:
    """A parameter's key in LDM layout; ``name`` is diffusers'. LDM counts the levels of the way up from the other end."""
    name = re.sub(
        r"^decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)",
        lambda m: f"decoder.up.{levels - 1 - int(m[1])}." + (f"block.{m[2]}" if m[2] else "upsample"),
        name,
    )
    for pattern, replacement in _PATTERNS:
        name = re.sub(pattern, replacement, name)
    return PREFIX + name


def load_vae(file: TensorFile, scale: float, device: torch.device | str = "cpu") -> AutoencoderKL:
    """In float32, since SDXL's overflows in half precision. Raises LoraxError if the checkpoint lacks its autoencoder."""
    shapes = {key.removeprefix(PREFIX): shape for key, shape in file.shapes.items() if key.startswith(PREFIX)}
    found = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", key) for key in shapes]
    blocks = sorted((int(m[1]), int(m[2])) for m in found if m)
    if not blocks:
        raise LoraxError(f"{file.path}: holds no autoencoder ({PREFIX}*). Pictures need a checkpoint with one baked in.")
    levels = blocks[-1][0] + 1
    config = {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "layers_per_block": blocks[-1][1] + 1,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scale,
    }
    return load(partial(AutoencoderKL, **config), lambda name: Part(file, ldm_name(name, levels)), device, torch.float32)
