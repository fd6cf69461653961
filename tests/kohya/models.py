"""Bases as diffusers folders: the bundled one, and narrow random ones with the blocks that sd-scripts expects of its families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lorax.runner import Runner

XL_WIDTHS = (32, 64, 128)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}


def sd1(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint's models."""
    runner = Runner(checkpoint)
    _sd(folder, runner.vae, runner.text_encoder, runner.unet, runner.tokenizer)
    return folder


def sd2(tokenizer: Path, folder: Path) -> Path:
    """SD 2.x's blocks and the width of its text in a narrow UNet, whose attention is reached through linear layers."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64,) * 4,
        attention_head_dim=(1, 1, 2, 2),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    _sd(folder, _vae(), CLIPTextModel(_text(tokenizer, 1024, 2)), unet, CLIPTokenizer.from_pretrained(tokenizer))
    return folder


def sdxl(tokenizer: Path, folder: Path) -> Path:
    """SDXL's blocks and the widths of its text, which sd-scripts takes for given, in a narrow UNet."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=XL_WIDTHS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(1, 1, 2),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    first = CLIPTextModel(_text(tokenizer, 768, 12))  # the eleventh layer is asked for
    second = CLIPTextModelWithProjection(_text(tokenizer, 1280, 2))
    words = CLIPTokenizer.from_pretrained(tokenizer)
    parts = {"text_encoder": first, "text_encoder_2": second, "tokenizer": words, "tokenizer_2": words, "unet": unet}
    StableDiffusionXLPipeline(vae=_vae(), scheduler=DDIMScheduler(**SCHEDULE), **parts).to(torch.float16).save_pretrained(folder)
    return folder


def _sd(folder: Path, vae: Any, text_encoder: Any, unet: Any, tokenizer: Any) -> None:
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = DDIMScheduler(**SCHEDULE)
    parts = {"vae": vae, "text_encoder": text_encoder, "unet": unet, "tokenizer": tokenizer, "scheduler": scheduler}
    StableDiffusionPipeline(**parts, **rest).save_pretrained(folder)


def _vae() -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(32,) * 4, latent_channels=4, **blocks)


def _text(tokenizer: Path, width: int, layers: int) -> CLIPTextConfig:
    size = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
