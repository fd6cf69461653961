"""SDXL's structure at narrow widths: two text encoders, three levels whose attention modules differ in depth.

SDXL's last two levels have attention modules of 2 and 10 transformer blocks; here 2 and ``DEPTH``. SDXL also hands the pooled
text to the timestep embedding. A model that knows few captions would read the subject off it and leave the cross-attention
unused, so the pooled text's columns are zero here, and the file keeps the layout.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lab import data
from lab.models import CONTEXT, HEADS, VOCABULARY, new_text_encoder, text_config
from lorax.checkpoint import openclip
from lorax.runner.unet import TIME_IDS, time_ids

WIDTH = 64  # of every level
SECOND = 96  # width of the second text encoder
DEPTH = 4
TIME_WIDTH = 16


class XLModel(nn.Module):
    """Both text encoders and the UNet together, with the interface of ``lab.models.Model``."""

    def __init__(
        self, text_encoder: CLIPTextModel, text_encoder_2: CLIPTextModelWithProjection, unet: UNet2DConditionModel
    ) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2, self.unet = text_encoder, text_encoder_2, unet

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Predicted noise (N, 4, h, w) for token ids (N, 77). Both encoders give their last but one layer, as in SDXL."""
        first = self.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        padded = openclip.padded_with_zeros(tokens, VOCABULARY - 1)
        second = self.text_encoder_2(padded, output_hidden_states=True).hidden_states[-2]
        added = {"text_embeds": noisy.new_zeros(len(noisy), SECOND), "time_ids": time_ids(len(noisy), data.SIZE, data.SIZE)}
        context = torch.cat([first, second], dim=-1)
        return self.unet(noisy, times, context, added_cond_kwargs=added, return_dict=False)[0]

    def save(self, folder: Path) -> None:
        for name, part in self.named_children():
            part.save_pretrained(folder / name)  # type: ignore[operator]

    @classmethod
    def load(cls, folder: Path) -> XLModel:
        return cls(
            CLIPTextModel.from_pretrained(folder / "text_encoder"),
            CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
            UNet2DConditionModel.from_pretrained(folder / "unet"),
        )


def new_xl() -> XLModel:
    unet = UNet2DConditionModel(**_structure(), transformer_layers_per_block=(1, 2, DEPTH))
    with torch.no_grad():
        unet.add_embedding.linear_1.weight[:, :SECOND] = 0
    second = CLIPTextModelWithProjection(text_config(SECOND, "gelu", pad=0))
    return XLModel(new_text_encoder(), second, unet)


def pruned_from(teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """Remove what SSD-1B removes: the middle block, and of most attention modules the last transformer blocks."""
    up = [[2, 2, DEPTH], [2, 1, 1], 1]
    student = UNet2DConditionModel(
        **_structure(), transformer_layers_per_block=(1, 2, 2), reverse_transformer_layers_per_block=up, mid_block_type=None
    )
    kept = student.state_dict().keys()
    student.load_state_dict({key: value.clone() for key, value in teacher.state_dict().items() if key in kept})
    return student


def _structure() -> dict:
    return {
        "sample_size": data.SIZE // 8,
        "block_out_channels": (WIDTH,) * 3,
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": CONTEXT + SECOND,
        "attention_head_dim": HEADS,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": SECOND + TIME_IDS * TIME_WIDTH,
    }
