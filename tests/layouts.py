"""Every supported family's parameters at full size, as diffusers' and transformers' models have them, without their weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorax.checkpoint import Family, families

Shapes = dict[str, tuple[int, ...]]
SD1: dict[str, Any] = {"cross_attention_dim": 768}
SD2: dict[str, Any] = {"cross_attention_dim": 1024, "use_linear_projection": True}
TINY_SD: dict[str, Any] = SD1 | {
    "layers_per_block": 1,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "mid_block_type": None,
}
SDXL: dict[str, Any] = {
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SSD_1B = SDXL | {
    "transformer_layers_per_block": (1, 2, 4),
    "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), (1, 1, 1)),
    "mid_block_type": "UNetMidBlock2D",
}
VEGA = SSD_1B | {
    "transformer_layers_per_block": (1, 1, 2),
    "reverse_transformer_layers_per_block": ((2, 2, 2), (1, 1, 1), (1, 1, 1)),
}
KOALA_1B = SDXL | {"layers_per_block": 1, "transformer_layers_per_block": (1, 2, 6)}
KOALA_700M = KOALA_1B | {"transformer_layers_per_block": (1, 2, 5), "mid_block_type": None}
REFINER = SDXL | {
    "cross_attention_dim": 1280,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
UNETS: dict[str, tuple[Family, dict[str, Any]]] = {
    "sd1": (families.SD1, SD1),
    "sd1 inpainting": (families.SD1, SD1 | {"in_channels": 9}),
    "instruct-pix2pix": (families.SD1, SD1 | {"in_channels": 8}),
    "small-sd": (families.SD1, SD1 | {"layers_per_block": 1}),
    "tiny-sd": (families.SD1, TINY_SD),
    "sd2": (families.SD2, SD2),
    "sd2 inpainting": (families.SD2, SD2 | {"in_channels": 9}),
    "sdxl": (families.SDXL, SDXL),
    "sdxl inpainting": (families.SDXL, SDXL | {"in_channels": 9}),
    "ssd-1b": (families.SDXL, SSD_1B),
    "vega": (families.SDXL, VEGA),
    "koala-1b": (families.SDXL, KOALA_1B),
    "koala-700m": (families.SDXL, KOALA_700M),
    "refiner": (families.SDXL_REFINER, REFINER),
}
# Of the text encoders as diffusers folders have them: their class, width and layers.
CLIP_L = (CLIPTextModel, 768, 12)
CLIP_H = (CLIPTextModel, 1024, 23)
BIG_G = (CLIPTextModelWithProjection, 1280, 32)
TEXTS: dict[Family, dict[str, tuple[Any, int, int]]] = {
    families.SD1: {"text_encoder": CLIP_L},
    families.SD2: {"text_encoder": CLIP_H},
    families.SDXL: {"text_encoder": CLIP_L, "text_encoder_2": BIG_G},
    families.SDXL_REFINER: {"text_encoder_2": BIG_G},
}


@cache
def unet(kind: str) -> Shapes:
    with torch.device("meta"):
        return _shapes(UNet2DConditionModel(**UNETS[kind][1]))


@cache
def text(encoder: tuple[Any, int, int]) -> Shapes:
    """Shapes of a text encoder, with the prefix that transformers 5 leaves out."""
    model, width, layers = encoder
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    with torch.device("meta"):
        found = _shapes(model(config))
    return {key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": found[key] for key in found}


def layers(shapes: Shapes) -> list[str]:
    """Paths of what an adapter can touch."""
    return [
        key.removesuffix(".weight")
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) in (2, 4) and not key.endswith("_embedding.weight")
    ]


def _shapes(model: torch.nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("position_ids")}
