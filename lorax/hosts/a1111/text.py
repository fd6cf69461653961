"""The text encoders of a checkpoint that the WebUI has loaded, run as ``lorax.runner.runner`` runs a checkpoint's.

The WebUI's own way through them depends on settings (clip skip, emphasis, crop) and takes words for the embeddings of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lorax.checkpoint import PROJECTION, openclip
from lorax.models import text_module

TOKENS = 77
PIXELS = 8  # a latent value's, a side


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts."""

    context: torch.Tensor  # (N, 77, width); of SDXL both encoders' side by side
    pooled: torch.Tensor | None = None  # (N, width) of SDXL


class OneEncoder:
    """SD 1.x's, of ``LatentDiffusion``."""

    def __init__(self, loaded: Any, device: torch.device) -> None:
        self._clip, self._device = _unwrapped(loaded.cond_stage_model), device

    def encode(self, prompts: list[str]) -> Conditioning:
        return Conditioning(self._clip.transformer(_tokens(self._clip.tokenizer, prompts).to(self._device))[0])

    def given(self, conditioning: Conditioning, latents: torch.Tensor) -> dict[str, Any]:
        """What ``apply_model`` takes."""
        return {"c_crossattn": [conditioning.context]}

    def module(self, component: str, path: str) -> nn.Module:
        return text_module(self._clip.transformer, path)


class TwoEncoders:
    """SDXL's, of ``DiffusionEngine``."""

    def __init__(self, loaded: Any, device: torch.device) -> None:
        self._conditioner, self._device = loaded.conditioner, device
        first, second, *self._sizes = loaded.conditioner.embedders
        self._clip, self._open_clip = _unwrapped(first), OpenCLIP(_unwrapped(second).model)

    def encode(self, prompts: list[str]) -> Conditioning:
        return called(self._conditioner, self._encoded, _tokens(self._clip.tokenizer, prompts).to(self._device))

    def _encoded(self, ids: torch.Tensor) -> Conditioning:
        first = self._clip.transformer(ids, output_hidden_states=True).hidden_states[-2]
        second, pooled = self._open_clip.encode(openclip.padded_with_zeros(ids, self._clip.tokenizer.eos_token_id))
        return Conditioning(torch.cat([first, second], dim=-1), pooled)

    def given(self, conditioning: Conditioning, latents: torch.Tensor) -> dict[str, Any]:
        """What ``apply_model`` takes: the pictures are not cropped, and of the size asked for."""
        size = [PIXELS * side for side in latents.shape[-2:]]
        told = {"original_size_as_tuple": size, "crop_coords_top_left": [0, 0], "target_size_as_tuple": size}
        sizes = [
            embedder(torch.tensor([told[embedder.input_key]] * len(latents), dtype=torch.float32, device=self._device))
            for embedder in self._sizes
        ]
        assert conditioning.pooled is not None
        return {"crossattn": conditioning.context, "vector": torch.cat([conditioning.pooled, *sizes], dim=1)}

    def module(self, component: str, path: str) -> nn.Module:
        return text_module(self._clip.transformer, path) if component == "te1" else self._open_clip.module(path)


class OpenCLIP:
    """OpenCLIP's text encoder, so that each of its layers is a module, to whose hooks pictures come first and positions second.

    OpenCLIP itself runs positions first, has q, k and v in one weight, and a projection without a module. Nothing is copied, and
    outside of ``encode`` all is as the host has it.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._blocks = model, list(model.transformer.resblocks)
        self._attentions = [_Attention(block.attn) for block in self._blocks]
        self._projection = _linear(model.text_projection.T)

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last block but one gives, (N, 77, width), and the pooled text (N, width), of token ids (N, 77)."""
        model = self._model
        with self._apart():
            x = model.token_embedding(ids) + model.positional_embedding
            for block in self._blocks:
                penultimate, x = x, block(x, attn_mask=model.attn_mask)
            end = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=-1)]  # the end token has the highest number
            return penultimate, self._projection(end)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """The host may have moved or cast its weights since the last time."""
        self._projection.weight.data = self._model.text_projection.data.T
        whole = [block.attn for block in self._blocks]
        try:
            for block, attention in zip(self._blocks, self._attentions, strict=True):
                attention.show(block.attn)
                block.attn = attention
            yield
        finally:
            for block, attention in zip(self._blocks, whole, strict=True):
                block.attn = attention

    def module(self, path: str) -> nn.Module:
        """Of the layer with transformers' path."""
        if path == PROJECTION:
            return self._projection
        key, third = openclip.key_of(f"{path}.weight")
        if third is None:
            found: nn.Module = self._model.get_submodule(key.removesuffix(".weight"))
            return found
        number = int(key.removeprefix("transformer.resblocks.").partition(".")[0])
        return self._attentions[number].inner[third]


class _Attention(nn.Module):
    """What a ``MultiheadAttention`` does to itself, (N, T, width), with a linear layer each for q, k and v."""

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads, self.out_proj = whole.num_heads, whole.out_proj
        self.inner = nn.ModuleList(map(_linear, whole.in_proj_weight.chunk(3), whole.in_proj_bias.chunk(3)))

    def show(self, whole: nn.MultiheadAttention) -> None:
        """From now on the layers are views of these weights."""
        for layer, W, b in zip(self.inner, whole.in_proj_weight.chunk(3), whole.in_proj_bias.chunk(3), strict=True):
            layer.weight.data, layer.bias.data = W.data, b.data

    def forward(
        self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor, need_weights: bool, attn_mask: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        q, k, v = (layer(x).unflatten(-1, (self._heads, -1)).transpose(1, 2) for layer in self.inner)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask.to(q))
        return self.out_proj(y.transpose(1, 2).flatten(2)), None


def called(module: nn.Module, forward: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Any:
    """``forward(x)`` by way of the module, so that hooks by which the host brings it to its device are run."""
    module.forward = forward
    try:
        return module(x)
    finally:
        del module.forward


def _tokens(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Ids (N, 77)."""
    padded = tokenizer(list(prompts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    ids: torch.Tensor = padded.input_ids
    return ids


def _unwrapped(embedder: Any) -> Any:
    """Without what the host puts around for its prompts' syntax."""
    return getattr(embedder, "wrapped", embedder)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """Over these very weights."""
    layer = nn.Linear(0, 0, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
