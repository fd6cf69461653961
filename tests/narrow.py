"""Random bases of the lab's structures, and small LoRAs of a few of their layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lab import data, ldm, vae
from lab.models import Model, new_text_encoder, new_unet
from lab.xl import XLModel
from lorax.demo.bundle import BUNDLE

LAYERS = (
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_up_blocks_2_attentions_1_transformer_blocks_0_attn2_to_out_0",
    "lora_te_text_model_encoder_layers_1_self_attn_k_proj",
)


def model() -> Model:
    torch.manual_seed(0)
    return Model(new_text_encoder(), new_unet(layers_per_block=1)).eval()


def save(model: Model | XLModel, path: Path) -> Path:
    torch.manual_seed(1)
    ldm.write_checkpoint(path, model, vae.new(), BUNDLE / "tokenizer", torch.float32)
    return path


def save_lora(path: Path, seed: int = 0) -> Path:
    made = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in LAYERS:
        tensors[f"{name}.lora_up.weight"] = 0.1 * torch.randn(64, 2, generator=made)
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, 64, generator=made)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def icons(count: int) -> data.Icons:
    """Noise, under names that are held out."""
    names = [name for name in (f"thing-{i}" for i in range(20 * count)) if data.is_held_out(name)][:count]
    images = np.random.default_rng(0).integers(0, 256, (count, data.SIZE, data.SIZE, 3), dtype=np.uint8)
    return data.Icons(images, [name.replace("-", " ") for name in names], names)
