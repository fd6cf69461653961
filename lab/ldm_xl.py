"""SDXL's part of ``lab.ldm``: the second text encoder in OpenCLIP's layout, and the ``.yaml`` in sgm's format."""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from lab import data
from lab.models import TOKENS
from lab.xl import XLModel
from lorax.checkpoint import PROJECTION, openclip, text_path

PREFIX = "conditioner.embedders.1.model."
LOGIT_SCALE = math.log(1 / 0.07)  # OpenCLIP's at the start; the layout has it, and nothing that makes pictures reads it
ARCHITECTURE = "lorax-lab-xl"  # none of OpenCLIP's own: a host has to register it, with the sizes in tokenizer/config_2.json


def text_encoder_2_state(encoder: CLIPTextModelWithProjection) -> dict[str, torch.Tensor]:
    state = {f"{PREFIX}logit_scale": torch.tensor(LOGIT_SCALE)}
    fused: dict[str, list[torch.Tensor]] = {}
    for name, value in encoder.state_dict().items():
        key, third = openclip.key_of(text_path(name))
        if third is None:
            state[PREFIX + key] = value.T if key == PROJECTION else value
        else:
            fused.setdefault(PREFIX + key, [value] * 3)[third] = value
    return state | {key: torch.cat(thirds) for key, thirds in fused.items()}


def yaml_of(model: XLModel, vae: AutoencoderKL) -> str:
    """As Stability's sd_xl_base.yaml. A pruned UNet gets its teacher's depths: the format has one a level, and hosts prune."""
    unet = model.unet
    channels = unet.config["block_out_channels"]
    base = min(channels)
    adm = unet.config["projection_class_embeddings_input_dim"]
    outdim = unet.config["addition_time_embed_dim"]
    return f"""\
image_size: {data.SIZE // 8} # of the latents; sgm's format has no place for it, and hosts read nothing outside of model
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: {vae.config["scaling_factor"]}
    disable_first_stage_autocast: true
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
      params:
        num_idx: 1000
        weighting_config:
          target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling
        discretization_config:
          target: sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization
    network_config:
      target: sgm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        adm_in_channels: {adm}
        num_classes: sequential
        use_checkpoint: false
        in_channels: 4
        out_channels: 4
        model_channels: {base}
        attention_resolutions: [4, 2]
        num_res_blocks: {unet.config["layers_per_block"]}
        channel_mult: {[width // base for width in channels]}
        num_head_channels: {channels[0] // _first(unet.config["attention_head_dim"])}
        use_spatial_transformer: true
        use_linear_in_transformer: true
        transformer_depth: {_depths(unet)}
        context_dim: {unet.config["cross_attention_dim"]}
        spatial_transformer_attn_type: softmax-xformers
        legacy: false
    conditioner_config:
      target: sgm.modules.GeneralConditioner
      params:
        emb_models:
        - is_trainable: false
          input_key: txt
          target: sgm.modules.encoders.modules.FrozenCLIPEmbedder
          params:
            version: {{tokenizer}}
            max_length: {TOKENS}
            layer: hidden
            layer_idx: {model.text_encoder.config.num_hidden_layers - 1}
        - is_trainable: false
          input_key: txt
          target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2
          params:
            arch: {ARCHITECTURE}
            version: laion2b_s39b_b160k
            freeze: true
            layer: penultimate
            always_return_pooled: true
            legacy: false
        - is_trainable: false
          input_key: original_size_as_tuple
          target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
          params:
            outdim: {outdim}
        - is_trainable: false
          input_key: crop_coords_top_left
          target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
          params:
            outdim: {outdim}
        - is_trainable: false
          input_key: target_size_as_tuple
          target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
          params:
            outdim: {outdim}
    first_stage_config:
      target: sgm.models.autoencoder.AutoencoderKLInferenceWrapper
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          attn_type: vanilla-xformers
{autoencoder_yaml(vae)}
"""


def autoencoder_yaml(vae: AutoencoderKL) -> str:
    """What ldm's format and sgm's have in common: the end of ``first_stage_config``."""
    channels = vae.config["block_out_channels"]
    return f"""\
          double_z: true
          z_channels: 4
          resolution: {data.SIZE}
          in_channels: 3
          out_ch: 3
          ch: {min(channels)}
          ch_mult: {[width // min(channels) for width in channels]}
          num_res_blocks: {vae.config["layers_per_block"]}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity"""


def _depths(unet: UNet2DConditionModel) -> list[int]:
    """Transformer blocks of a level's deepest attention module, 1 where there is none, as sd_xl_base.yaml has it."""
    levels = zip(unet.down_blocks, reversed(unet.up_blocks), strict=True)
    modules = [[*getattr(down, "attentions", ()), *getattr(up, "attentions", ())] for down, up in levels]
    return [max((len(module.transformer_blocks) for module in level), default=1) for level in modules]


def _first(heads: int | list[int] | tuple[int, ...]) -> int:
    return heads if isinstance(heads, int) else heads[0]
