"""Runs a model with and without an adapter: pictures and denoising losses. Needs diffusers and transformers (the demo extra)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lorax.checkpoint import open_checkpoint
from lorax.families import CLIP_L
from lorax.formats import open_adapter


class Runner:
    """An SD 1.x checkpoint with its ``.yaml``, and a folder with the tokenizer and text encoder configuration, on the CPU."""

    def __init__(self, path: Path, tokenizer: Path) -> None:
        self.base = open_checkpoint(path)
        config = str(path.with_suffix(".yaml"))
        self.unet = UNet2DConditionModel.from_single_file(str(path), original_config=config).float().eval()
        self.vae = AutoencoderKL.from_single_file(str(path), original_config=config).float().eval()
        self.size: int = yaml.safe_load(path.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]["params"]["image_size"]
        self.text_encoder = _text_encoder(path, tokenizer)
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.scheduler = DDIMScheduler(
            1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        )

    @contextmanager
    def adapted(self, adapter: Path | None, strength: float = 1.0) -> Iterator[None]:
        """Within the block the weights are W + strength * dW; None changes nothing. The adapter is resolved by its key names."""
        changed: list[tuple[torch.Tensor, torch.Tensor]] = []
        try:
            if adapter is not None:
                opened = open_adapter(adapter)
                for name, layer in opened.layers_of(self.base).items():
                    if layer is not None:
                        weight, dW = self._weight(layer), opened.delta(name)
                        changed.append((weight, weight.clone()))
                        weight += strength * dW.scale * (dW.up @ dW.down).reshape(weight.shape)
            yield
        finally:
            for weight, original in changed:
                weight.copy_(original)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Text encodings (N, 77, width)."""
        tokens = self.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return self.text_encoder(tokens.input_ids)[0]

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int = 25, guidance: float = 3.0) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [0, 1], one per prompt and seed, by DDIM. Equal seeds start from equal noise everywhere."""
        shape = (4, self.size, self.size)  # the UNet's config is no guide: from_single_file writes 64 into it
        latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        context = torch.cat([self.encode([""] * len(prompts)), self.encode(prompts)])
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            without, given = self.unet(torch.cat([latents] * 2), t, context, return_dict=False)[0].chunk(2)
            latents = self.scheduler.step(without + guidance * (given - without), t, latents, return_dict=False)[0]
        pictures = self.vae.decode(latents / self.vae.config["scaling_factor"], return_dict=False)[0]
        return (pictures.clamp(-1, 1) + 1) / 2

    @torch.no_grad()
    def losses(self, latents: torch.Tensor, context: torch.Tensor, times: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Denoising loss (N,) of scaled latents (N, 4, h, w) at integer times (N,) under the given noise."""
        noisy = self.scheduler.add_noise(latents, noise, times)
        return (self.unet(noisy, times, context, return_dict=False)[0] - noise).square().mean((1, 2, 3))

    def _weight(self, layer: str) -> torch.Tensor:
        component, _, path = layer.partition(".")
        if component == "unet":
            return self.unet.get_submodule(self.base.unet_names.to_diffusers(path)).weight.data
        try:
            return self.text_encoder.get_submodule(path).weight.data
        except AttributeError:  # transformers 5 has no text_model between
            return self.text_encoder.get_submodule(path.removeprefix("text_model.")).weight.data


def _text_encoder(path: Path, config: Path) -> CLIPTextModel:
    model = CLIPTextModel(CLIPTextConfig.from_pretrained(config))
    prefix = CLIP_L.checkpoint
    expected = model.state_dict()
    with safe_open(str(path), framework="pt") as file:
        for name, weight in expected.items():
            if name.endswith("position_ids"):
                continue
            key = prefix + (name if name.startswith("text_model.") else f"text_model.{name}")  # transformers 5 leaves it out
            weight.copy_(file.get_tensor(key))
    return model.float().eval()
