"""Runs a checkpoint, with and without an adapter. Needs diffusers and transformers (the demo extra)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTokenizer

from lorax.checkpoint import Checkpoint, open_checkpoint, openclip
from lorax.devices import free_on_card, precision
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.models import Conditioning, check, text_module, trajectory
from lorax.runner.text import load_text_encoder
from lorax.runner.unet import load_unet, time_ids
from lorax.runner.vae import encode, load_vae

CONFIGS = ("config.json", "config_2.json")  # of the text encoders, in the tokenizer folder
PIXELS = 8  # side of one latent
# Bytes per pixel, as python -m bench.behaviour measures them, with a margin.
DECODING = 8000  # by the autoencoder, in float32
EVALUATING = 640  # by the UNet, in half precision
LITTLE = 2 << 30  # bytes that are always free on a usable card, so that asking is not worth its time


class Runner:
    """An SD 1.x or SDXL checkpoint in one file, with the ``.yaml`` beside it if there is one; implements ``lorax.models.Model``.

    ``tokenizer`` is a folder with CLIP's ``vocab.json`` and ``merges.txt``; by default, ``tokenizer`` beside the checkpoint. It
    also has ``config.json`` (and ``config_2.json`` for SDXL's second) if the text encoders' heads are not 64 channels wide. Text
    encoders and UNet compute in ``dtype`` on ``device``. They leave the device if the autoencoder needs the memory, and the text
    encoders also if only the UNet is trained. Raises LoraxError if something is missing or does not fit together.
    """

    def __init__(
        self, path: Path, tokenizer: Path | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.base = open_checkpoint(path)
        self._settings = check(self.base)
        self.device, self.dtype = torch.device(device), dtype
        folder = tokenizer or path.parent / "tokenizer"
        self.tokenizer = _tokenizer(path, folder)
        self._file = self.base.unet_file
        self.size, self.latent_scale = self._settings.size, self._settings.latent_scale
        self.text_encoders = {
            component.name: load_text_encoder(self._file, component.checkpoint, folder / config, self.device, dtype)
            for component, config in zip(self.base.family.text_encoders, CONFIGS, strict=False)
        }
        self.text_encoder, self.text_encoder_2 = (*self.text_encoders.values(), None)[:2]
        for encoder in self.text_encoders.values():
            if len(self.tokenizer) > encoder.config.vocab_size:
                raise LoraxError(
                    f"{folder}: a vocabulary of {len(self.tokenizer)} tokens; {path} knows {encoder.config.vocab_size}. "
                    "Give the tokenizer folder that belongs to the checkpoint."
                )
        pooled = self.text_encoder_2.config.projection_dim if self.text_encoder_2 else None
        self.unet = load_unet(self._file, self._settings, pooled, self.device, dtype)
        self.scheduler = DDIMScheduler(
            1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        )

    @property
    def alphas(self) -> torch.Tensor:
        """The share of a picture's variance that is left at each timestep, float32 (1000,)."""
        return self.scheduler.alphas_cumprod

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder in float32, read when a picture first needs it."""
        return load_vae(self._file, self._settings.latent_scale, self.device)

    @contextmanager
    def adapted(self, adapter: Path | None, strength: float = 1.0) -> Iterator[None]:
        """Change the weights to W + strength * dW within the block; None changes nothing.

        At the end the weights are read from the checkpoint again, so that nothing is held twice. Blocks cannot be nested.
        """
        changed: list[str] = []
        try:
            if adapter is not None:
                opened = open_adapter(adapter)
                for name, layer in opened.layers_of(self.base).items():
                    if layer is not None:
                        weight, dW = self.weight(layer), opened.delta(name, self.base)
                        changed.append(layer)
                        product = strength * dW.scale * (dW.up.to(weight.device) @ dW.down.to(weight.device))
                        weight += product.reshape(weight.shape).to(self.dtype)
            yield
        finally:
            for layer in changed:
                weight = self.weight(layer)  # it may be on another device by now
                weight.copy_(self.base.stored(layer).reshape(weight.shape))

    def encode(self, prompts: list[str]) -> Conditioning:
        """Return the conditioning of N prompts."""
        _move(self.text_encoders.values(), self.device)
        tokens = self.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        ids = tokens.input_ids.to(self.device)
        if self.text_encoder_2 is None:
            return Conditioning(self.text_encoder(ids)[0])
        first = self.text_encoder(ids, output_hidden_states=True)
        second = self.text_encoder_2(openclip.padded_with_zeros(ids, self.tokenizer.eos_token_id), output_hidden_states=True)
        return Conditioning(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds)

    def predict(self, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Return the noise, float32 (N, 4, h, w), in scaled latents (N, 4, h, w) at integer timesteps (N,) or ()."""
        self._place_unet(EVALUATING * latents.shape[0] * latents[0, 0].numel() * PIXELS**2, conditioning)
        added = None
        if conditioning.pooled is not None:
            height, width = (PIXELS * side for side in latents.shape[-2:])
            sizes = time_ids(len(latents), height, width).to(self.device)
            added = {"text_embeds": conditioning.pooled, "time_ids": sizes}
        inputs = latents.to(self.device, self.dtype), times.to(self.device), conditioning.context
        predicted: torch.Tensor = self.unet(*inputs, added_cond_kwargs=added, return_dict=False)[0]
        return predicted.float()

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return scaled latents (N, 4, H / 8, W / 8) of pictures (N, 3, H, W) in [0, 1]."""
        with self._autoencoder(pictures.shape[-2] * pictures.shape[-1]) as vae:
            return encode(vae, 2 * pictures - 1, batch=_batch_size(16, pictures.shape[-1]))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures (N, 3, H, W) in [0, 1] of scaled latents (N, 4, h, w)."""
        height, width = (PIXELS * side for side in latents.shape[-2:])
        with self._autoencoder(height * width) as vae:
            parts = torch.split(latents.to(self.device) / self.latent_scale, _batch_size(64, width))
            pictures = torch.cat([vae.decode(part, return_dict=False)[0] for part in parts])
        return (pictures.clamp(-1, 1) + 1) / 2

    def _place_unet(self, size: int, conditioning: Conditioning) -> None:
        """Move the UNet to the device for an evaluation of ``size`` bytes. Text encoders that are not trained make room."""
        is_training = self.device.type == "cuda" and torch.is_grad_enabled()
        if not conditioning.context.requires_grad and (is_training or not _has_room(self.device, size)):
            _move(self.text_encoders.values(), "cpu")
        _move([self.unet], self.device)

    @contextmanager
    def _autoencoder(self, pixels: int) -> Iterator[AutoencoderKL]:
        """Yield the autoencoder on the device, with room for a picture of so many pixels."""
        if not _has_room(self.device, DECODING * pixels):
            _move([self.unet, *self.text_encoders.values()], "cpu")
        _move([self.vae], self.device)
        yield self.vae
        if self.device.type == "cuda":
            _move([self.vae], "cpu")
            torch.cuda.empty_cache()

    @torch.no_grad()
    def sample(
        self, prompts: list[str], seeds: list[int], *, steps: int = 25, guidance: float = 3.0, negative: str = ""
    ) -> torch.Tensor:
        """Draw pictures (N, 3, H, W) in [0, 1], one per prompt and seed, away from the ``negative`` prompt."""
        *_, (_, latents) = trajectory(self, prompts, seeds, steps, guidance, negative)
        return self.decode(latents)

    @torch.no_grad()
    def losses(self, latents: torch.Tensor, conditioning: Conditioning, times: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the denoising losses (N,) of scaled latents (N, 4, h, w) at integer timesteps (N,) with this noise."""
        noisy = self.scheduler.add_noise(latents, noise, times)
        return (self.predict(noisy, times, conditioning) - noise.to(self.device)).square().mean((1, 2, 3))

    def close(self) -> None:
        """Free the memory of the weights, even if the runner is still referenced. The model cannot run any more."""
        for part in (self.unet, *self.text_encoders.values(), *([self.vae] if "vae" in vars(self) else [])):
            part.to_empty(device="meta")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the UNet's residual and transformer blocks."""
        return [module for module in self.unet.modules() if isinstance(module, (ResnetBlock2D, BasicTransformerBlock))]

    def weight(self, layer: str) -> torch.Tensor:
        """Return the running model's weight of a layer of the base, not a copy."""
        weight = self.module(layer).weight
        assert isinstance(weight, torch.Tensor)
        return weight.data

    def module(self, layer: str) -> nn.Module:
        """Return the module that computes a layer of the base."""
        component, _, path = layer.partition(".")
        if component == "unet":
            return self.unet.get_submodule(self.base.unet_names.to_diffusers(path))
        return text_module(self.text_encoders[component], path)


@dataclass(frozen=True)
class Runners:
    """Bases run by ``Runner``, one at a time; implements ``lorax.models.Models``. The default ``dtype`` depends on the device.

    ``tokenizer``: a folder for bases that have none beside them.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    tokenizer: Path | None = None

    @contextmanager
    def opened(self, base: Checkpoint) -> Iterator[Runner]:
        beside = base.path.parent / "tokenizer"
        folder = None if beside.is_dir() else self.tokenizer
        runner = Runner(base.path, folder, device=self.device, dtype=self.dtype or precision(self.device))
        try:
            yield runner
        finally:
            runner.close()  # the caller's variable still refers to it
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def _move(parts: Iterable[nn.Module], device: torch.device | str) -> None:
    """Move the parts that are not on the device yet."""
    for part in parts:
        if next(part.parameters()).device.type != torch.device(device).type:
            nn.Module.to(part, device)  # diffusers' own ``to`` logs warnings that do not matter here


def _has_room(device: torch.device, size: int) -> bool:
    """Tell whether ``size`` bytes are free on the device. A CPU counts as large enough."""
    if device.type != "cuda" or size < LITTLE:
        return True
    torch.cuda.empty_cache()
    return free_on_card(device) > size


def _batch_size(small: int, side: int) -> int:
    """Return how many pictures with this side have as many pixels as ``small`` pictures with a side of 64; at least 1."""
    return max(1, small * 64**2 // side**2)


def _tokenizer(checkpoint: Path, folder: Path) -> CLIPTokenizer:
    if not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
        raise LoraxError(
            f"{folder}: no tokenizer; expected vocab.json and merges.txt. {checkpoint} does not hold its vocabulary: name the "
            "folder that does (the tokenizer argument), such as tokenizer in a diffusers copy of the model."
        )
    return CLIPTokenizer.from_pretrained(folder)
