"""Runs the text encoders of a checkpoint that the WebUI has loaded, with the same results as ``lorax.runner.runner``.

The WebUI's own code depends on settings (clip skip, emphasis, crop), and replaces words by textual inversions of that name.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lorax.checkpoint import PROJECTION, openclip
from lorax.models import Conditioning, text_module

TOKENS = 77
PIXELS = 8  # side of one latent


class OneEncoder:
    """The text encoder of SD 1.x, in a ``LatentDiffusion``."""

    def __init__(self, loaded: Any, device: torch.device) -> None:
        self._clip, self._device = _unwrapped(loaded.cond_stage_model), device

    def encode(self, prompts: list[str]) -> Conditioning:
        return Conditioning(self._clip.transformer(_tokens(self._clip.tokenizer, prompts).to(self._device))[0])

    def model_inputs(self, conditioning: Conditioning, latents: torch.Tensor) -> dict[str, Any]:
        """Return the conditioning that ``apply_model`` takes."""
        return {"c_crossattn": [conditioning.context]}

    def module(self, component: str, path: str) -> nn.Module:
        return text_module(self._clip.transformer, path)


class TwoEncoders:
    """The two text encoders of SDXL, in a ``DiffusionEngine``."""

    def __init__(self, loaded: Any, device: torch.device) -> None:
        self._conditioner, self._device = loaded.conditioner, device
        first, second, *self._sizes = loaded.conditioner.embedders
        self._clip, self._open_clip = _unwrapped(first), OpenCLIP(_unwrapped(second).model)

    def encode(self, prompts: list[str]) -> Conditioning:
        return call_through(self._conditioner, self._encode, _tokens(self._clip.tokenizer, prompts).to(self._device))

    def _encode(self, ids: torch.Tensor) -> Conditioning:
        first = self._clip.transformer(ids, output_hidden_states=True).hidden_states[-2]
        second, pooled = self._open_clip.encode(openclip.padded_with_zeros(ids, self._clip.tokenizer.eos_token_id))
        return Conditioning(torch.cat([first, second], dim=-1), pooled)

    def model_inputs(self, conditioning: Conditioning, latents: torch.Tensor) -> dict[str, Any]:
        """Return the conditioning that ``apply_model`` takes, for uncropped pictures of the latents' size."""
        size = [PIXELS * side for side in latents.shape[-2:]]
        inputs = {"original_size_as_tuple": size, "crop_coords_top_left": [0, 0], "target_size_as_tuple": size}
        sizes = [
            embedder(torch.tensor([inputs[embedder.input_key]] * len(latents), dtype=torch.float32, device=self._device))
            for embedder in self._sizes
        ]
        assert conditioning.pooled is not None
        return {"crossattn": conditioning.context, "vector": torch.cat([conditioning.pooled, *sizes], dim=1)}

    def module(self, component: str, path: str) -> nn.Module:
        return text_module(self._clip.transformer, path) if component == "te1" else self._open_clip.module(path)


class OpenCLIP:
    """OpenCLIP's text encoder with a module for each layer, whose hooks see tensors (N, T, width).

    OpenCLIP itself has positions first, one weight for q, k and v, and a projection without a module. Weights are shared, not
    copied, and the WebUI's model is changed only within ``encode``.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._blocks = model, list(model.transformer.resblocks)
        self._attentions = [_Attention(block.attn) for block in self._blocks]
        self._projection = _linear(model.text_projection.T)

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last block's input (N, 77, width) and the pooled text (N, width) for token ids (N, 77)."""
        model = self._model
        with self._split_attentions():
            x = model.token_embedding(ids) + model.positional_embedding
            for block in self._blocks:
                penultimate, x = x, block(x, attn_mask=model.attn_mask)
            end = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=-1)]  # the end token has the highest id
            return penultimate, self._projection(end)

    @contextmanager
    def _split_attentions(self) -> Iterator[None]:
        """Replace the attentions by split ones. Their weights are taken anew, since the WebUI may have moved or cast its own."""
        self._projection.weight.data = self._model.text_projection.data.T
        originals = [block.attn for block in self._blocks]
        try:
            for block, attention in zip(self._blocks, self._attentions, strict=True):
                attention.take_weights(block.attn)
                block.attn = attention
            yield
        finally:
            for block, original in zip(self._blocks, originals, strict=True):
                block.attn = original

    def module(self, path: str) -> nn.Module:
        """Return the module of the layer that has this path in transformers."""
        if path == PROJECTION:
            return self._projection
        key, third = openclip.key_of(f"{path}.weight")
        if third is None:
            return self._model.get_submodule(key.removesuffix(".weight"))
        number = int(key.removeprefix("transformer.resblocks.").partition(".")[0])
        return self._attentions[number].inner[third]


class _Attention(nn.Module):
    """Self-attention over (N, T, width) as in ``MultiheadAttention``, with separate linear layers for q, k and v."""

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads, self.out_proj = whole.num_heads, whole.out_proj
        self.inner = nn.ModuleList(map(_linear, whole.in_proj_weight.chunk(3), whole.in_proj_bias.chunk(3)))

    def take_weights(self, whole: nn.MultiheadAttention) -> None:
        """Make the layers views of these weights."""
        for layer, W, b in zip(self.inner, whole.in_proj_weight.chunk(3), whole.in_proj_bias.chunk(3), strict=True):
            layer.weight.data, layer.bias.data = W.data, b.data

    def forward(
        self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor, need_weights: bool, attn_mask: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        q, k, v = (layer(x).unflatten(-1, (self._heads, -1)).transpose(1, 2) for layer in self.inner)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask.to(q))
        return self.out_proj(y.transpose(1, 2).flatten(2)), None


def call_through(module: nn.Module, forward: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Any:
    """Return ``forward(x)``, called as the module's own ``forward``: the WebUI's hooks then bring the module to its device."""
    module.forward = forward
    try:
        return module(x)
    finally:
        del module.forward


def _tokens(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Return token ids (N, 77)."""
    settings = {"padding": "max_length", "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(prompts), **settings).input_ids


def _unwrapped(embedder: Any) -> Any:
    """Return the encoder inside the wrapper by which the WebUI handles its prompt syntax."""
    return getattr(embedder, "wrapped", embedder)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """Make a linear layer that shares these weights."""
    layer = nn.Linear(0, 0, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
