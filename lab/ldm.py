"""Writes the lab's models as Stable Diffusion 1.x checkpoints: LDM key names, fp16, a ``.yaml`` beside each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from lab import data
from lab.models import HEADS, TOKENS
from lorax.layers import UNetNames

_VAE_PATTERNS = (
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


def unet_state(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    names = UNetNames.from_diffusers(unet.state_dict())
    return {f"model.diffusion_model.{names.to_ldm(key)}": value for key, value in unet.state_dict().items()}


def text_encoder_state(text_encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """Transformers 5 leaves ``text_model.`` out of its names; checkpoints have it."""
    return {
        f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value
        for key, value in text_encoder.state_dict().items()
    }


def vae_state(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    state = {}
    levels = len(vae.config["block_out_channels"])
    for key, value in vae.state_dict().items():
        name = re.sub(
            r"^decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)",
            lambda m: f"decoder.up.{levels - 1 - int(m[1])}." + (f"block.{m[2]}" if m[2] else "upsample"),
            key,
        )
        for pattern, replacement in _VAE_PATTERNS:
            name = re.sub(pattern, replacement, name)
        is_attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        state[f"first_stage_model.{name}"] = value[:, :, None, None] if is_attention else value
    return state


def save_tokenizer(tokenizer: Path, text_encoder: CLIPTextModel, folder: Path) -> None:
    """The vocabulary and the text encoder's configuration: what the WebUI reads from the folder that the ``.yaml`` names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).write_text((tokenizer / name).read_text())
    config = {key: value for key, value in text_encoder.config.to_dict().items() if key != "_name_or_path"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def yaml_of(unet: UNet2DConditionModel, vae: AutoencoderKL) -> str:
    """The model's configuration in the WebUI's format. ``{tokenizer}`` is filled in when the models are unpacked."""
    channels = unet.config["block_out_channels"]
    vae_channels = vae.config["block_out_channels"]
    base = min(channels)
    return f"""\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.012
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: {data.SIZE // 8}
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {data.SIZE // 8}
        in_channels: 4
        out_channels: 4
        model_channels: {base}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: {unet.config["layers_per_block"]}
        channel_mult: {[width // base for width in channels]}
        num_heads: {HEADS}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {unet.config["cross_attention_dim"]}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {data.SIZE}
          in_channels: 3
          out_ch: 3
          ch: {min(vae_channels)}
          ch_mult: {[width // min(vae_channels) for width in vae_channels]}
          num_res_blocks: {vae.config["layers_per_block"]}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {{tokenizer}}
        max_length: {TOKENS}
"""
