"""The text-to-image models of the lab: SD 1.x's structure at narrow widths, in diffusers' classes.

The tokenizer and the autoencoder (``lab/vae.py``) are shared by all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTHS = (64, 64, 64, 64)  # the group norms have 32 groups: with one channel a group, colour would be normalised away
HEADS = 4
CONTEXT = 64
TOKENS = 77
VOCABULARY = 1024


class Model(nn.Module):
    """Text encoder and UNet together, so that one optimiser and one average cover both."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Predicted noise (N, 4, h, w) for token ids (N, 77)."""
        return self.unet(noisy, times, self.text_encoder(tokens)[0], return_dict=False)[0]

    def save(self, folder: Path) -> None:
        self.unet.save_pretrained(folder / "unet")
        self.text_encoder.save_pretrained(folder / "text_encoder")

    @classmethod
    def load(cls, folder: Path) -> Model:
        return cls(CLIPTextModel.from_pretrained(folder / "text_encoder"), UNet2DConditionModel.from_pretrained(folder / "unet"))


def new_unet(layers_per_block: int = 2) -> UNet2DConditionModel:
    """SD 1.x's v1-inference structure; one layer per block is BK-SDM's pruned structure (small-sd)."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=WIDTHS,
        layers_per_block=layers_per_block,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=CONTEXT,
        attention_head_dim=HEADS,
    )


def new_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(text_config(CONTEXT, "quick_gelu", pad=VOCABULARY - 1))


def text_config(width: int, activation: str, *, pad: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        max_position_embeddings=TOKENS,
        hidden_act=activation,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=pad,
    )


def pruned_from(teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """Remove blocks as BK-SDM does: keep the first of each two on the way down, the first and the third on the way up."""
    student = new_unet(layers_per_block=1)
    state = {}
    for key, value in teacher.state_dict().items():
        part = key.split(".")
        if part[0] in ("down_blocks", "up_blocks") and part[2] in ("resnets", "attentions"):
            kept = {"0": "0"} if part[0] == "down_blocks" else {"0": "0", "2": "1"}
            if part[3] not in kept:
                continue
            part[3] = kept[part[3]]
        state[".".join(part)] = value.clone()
    student.load_state_dict(state)
    return student


def noise_schedule() -> DDPMScheduler:
    return DDPMScheduler(1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def train_tokenizer(captions: Iterable[str], folder: Path) -> None:
    """A byte-pair vocabulary of ``VOCABULARY`` tokens in CLIP's file format, learned from the captions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    tokens = list(dict.fromkeys(alphabet + [letter + "</w>" for letter in alphabet] + [m.replace(" ", "") for m in merges]))
    tokens = tokens[: VOCABULARY - 2]
    merges = [merge for merge in merges if merge.replace(" ", "") in set(tokens)]
    tokens += [f"<|unused{i}|>" for i in range(VOCABULARY - 2 - len(tokens))] + specials
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": specials[0],
        "eos_token": specials[1],
        "unk_token": specials[1],
        "pad_token": specials[1],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


@dataclass(frozen=True)
class Captioner:
    """Captions -> token ids (N, 77), padded with the end token as SD 1.x does."""

    tokenizer: CLIPTokenizer

    @classmethod
    def load(cls, folder: Path) -> Captioner:
        return cls(CLIPTokenizer.from_pretrained(folder))

    def __call__(self, captions: list[str]) -> torch.Tensor:
        return self.tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
