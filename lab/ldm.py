"""Writes the lab's models as single-file checkpoints: SD 1.x's or SDXL's key names, fp16, a ``.yaml`` beside each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lab import data, ldm_xl
from lab.models import HEADS, TOKENS, Model
from lab.xl import XLModel
from lorax.checkpoint import UNetNames, text_path
from lorax.runner.vae import ldm_name

SD1_TEXT, XL_TEXT = "cond_stage_model.transformer.", "conditioner.embedders.0.transformer."


def write_checkpoint(
    path: Path, model: Model | XLModel, vae: AutoencoderKL, tokenizer: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write ``path`` with its ``.yaml``, and beside them the folder ``tokenizer`` with the vocabulary of the one given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(dtype).contiguous() for key, value in state_of(model, vae).items()}, path, {"format": "pt"})
    folder = path.parent / "tokenizer"
    path.with_suffix(".yaml").write_text(config_of(model, vae).format(tokenizer=json.dumps(folder.as_posix())), encoding="utf-8")
    save_tokenizer(tokenizer, model.text_encoder, folder, model.text_encoder_2 if isinstance(model, XLModel) else None)


def state_of(model: Model | XLModel, vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint under its key."""
    if isinstance(model, XLModel):
        text = text_encoder_state(model.text_encoder, XL_TEXT) | ldm_xl.text_encoder_2_state(model.text_encoder_2)
    else:
        text = text_encoder_state(model.text_encoder)
    return unet_state(model.unet) | text | vae_state(vae)


def config_of(model: Model | XLModel, vae: AutoencoderKL) -> str:
    """The model's ``.yaml`` as the WebUI reads it. ``{tokenizer}`` is filled in when the models are unpacked."""
    return ldm_xl.yaml_of(model, vae) if isinstance(model, XLModel) else yaml_of(model.unet, vae)


def unet_state(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    names = UNetNames.from_diffusers(unet.state_dict())
    return {f"model.diffusion_model.{names.to_ldm(key)}": value for key, value in unet.state_dict().items()}


def text_encoder_state(text_encoder: CLIPTextModel, prefix: str = SD1_TEXT) -> dict[str, torch.Tensor]:
    return {prefix + text_path(key): value for key, value in text_encoder.state_dict().items()}


def vae_state(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in vae.state_dict().items():
        key = ldm_name(name, len(vae.config["block_out_channels"]))
        state[key] = value[:, :, None, None] if ".attn_1." in key and value.dim() == 2 else value  # 1x1 convolutions in LDM
    return state


def save_tokenizer(
    tokenizer: Path, text_encoder: CLIPTextModel, folder: Path, text_encoder_2: CLIPTextModelWithProjection | None = None
) -> None:
    """The vocabulary and the text encoders' configurations: what the WebUI reads from the folder that the ``.yaml`` names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).write_text((tokenizer / name).read_text())
    save_config(text_encoder, folder / "config.json")
    if text_encoder_2 is not None:
        save_config(text_encoder_2, folder / "config_2.json")


def save_config(text_encoder: CLIPTextModel | CLIPTextModelWithProjection, path: Path) -> None:
    config = {key: value for key, value in text_encoder.config.to_dict().items() if key != "_name_or_path"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def yaml_of(unet: UNet2DConditionModel, vae: AutoencoderKL) -> str:
    """The model's configuration in the WebUI's format. ``{tokenizer}`` is filled in when the models are unpacked."""
    channels = unet.config["block_out_channels"]
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
{ldm_xl.autoencoder_yaml(vae)}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {{tokenizer}}
        max_length: {TOKENS}
"""
