"""Loads a checkpoint's autoencoder."""

import re
from functools import partial

import torch
from diffusers import AutoencoderKL

from lorax.errors import LoraxError
from lorax.files import Part, TensorFile
from lorax.runner.loading import load

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
    """Return the LDM key of the parameter that diffusers calls ``name``. LDM numbers the decoder's levels in reverse."""
    name = re.sub(
        r"^decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)",
        lambda m: f"decoder.up.{levels - 1 - int(m[1])}." + (f"block.{m[2]}" if m[2] else "upsample"),
        name,
    )
    for pattern, replacement in _PATTERNS:
        name = re.sub(pattern, replacement, name)
    return PREFIX + name


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Return the mean scaled latents (N, 4, H / 8, W / 8) of pixels (N, 3, H, W) in [-1, 1]."""
    # In torch 2.13 on the CPU, a backward pass through frozen convolutions crashes after an encoding with oneDNN.
    with torch.backends.mkldnn.flags(enabled=False):
        means = [vae.encode(part.to(vae.device)).latent_dist.mean for part in torch.split(pixels, batch)]
    return torch.cat(means) * vae.config["scaling_factor"]


def load_vae(file: TensorFile, scale: float, device: torch.device | str = "cpu") -> AutoencoderKL:
    """Load it in float32, since SDXL's overflows in half precision. Raises LoraxError if the checkpoint has no autoencoder."""
    shapes = {key.removeprefix(PREFIX): shape for key, shape in file.shapes.items() if key.startswith(PREFIX)}
    found = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", key) for key in shapes]
    blocks = sorted((int(m[1]), int(m[2])) for m in found if m)
    if not blocks:
        raise LoraxError(f"{file.path}: holds no autoencoder ({PREFIX}*). Pictures need a checkpoint with one baked in.")
    levels = blocks[-1][0] + 1

    def shape(key: str) -> tuple[int, ...]:
        found = shapes.get(key)
        if found is None or len(found) < 2:
            raise LoraxError(
                f"{file.path}: {PREFIX}{key} {'is missing' if found is None else f'has shape {found}'}; expected a convolution's "
                "weight. Pictures need a checkpoint with a whole autoencoder baked in."
            )
        return found

    widths = [shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    config = {
        "in_channels": shape("encoder.conv_in.weight")[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "latent_channels": shape("post_quant_conv.weight")[0],
        "block_out_channels": widths,
        "layers_per_block": blocks[-1][1] + 1,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scale,
    }
    try:
        return load(partial(AutoencoderKL, **config), lambda name: Part(file, ldm_name(name, levels)), device, torch.float32)
    except (ValueError, ZeroDivisionError) as error:  # diffusers rejects widths that are no multiples of 32
        raise LoraxError(
            f"{file.path}: {PREFIX}encoder.down.* is {widths} wide; diffusers can build no such autoencoder ({error}). "
            "Expected multiples of 32: use a checkpoint with Stable Diffusion's own baked in."
        ) from error
