"""Models that run, as AUTOMATIC1111's WebUI has loaded them: it switches to a checkpoint, and nothing is loaded twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from modules import devices, sd_models, sd_unet, shared
from torch import nn

from lorax.checkpoint import VELOCITY, Checkpoint, config_of
from lorax.errors import LoraxError
from lorax.hosts.a1111.text import Conditioning, OneEncoder, TwoEncoders, called
from lorax.models import batch_size, check

BLOCKS = ("ResBlock", "BasicTransformerBlock")  # ldm's and sgm's classes have the same names


class HostModels:
    """Opens checkpoints as the host loads them: ``lorax.models.Models``."""

    def opened(self, base: Checkpoint) -> AbstractContextManager[HostModel]:
        return opened(base)


@contextmanager
def opened(base: Checkpoint) -> Iterator[HostModel]:
    """As ``lorax.models.protocol.Models``, in the host's queue. What was loaded before is not loaded again here."""
    info = next((info for info in sd_models.checkpoints_list.values() if Path(info.filename) == base.path), None)
    if info is None:
        raise LoraxError(f"{base.path}: not listed by the WebUI any more. Refresh the lists and choose another checkpoint.")
    check(base)
    before = sd_models.model_data.sd_model
    with sd_models.SkipWritingToConfig():  # what the user has chosen stays chosen
        try:
            loaded = sd_models.reload_model_weights(info=info)
        except Exception as error:  # a pruned SDXL is taken for SSD-1B, a damaged file fails where it may
            if before is not None:  # the host has taken it off the device and out of its hooks, but counts it as loaded
                sd_models.reload_model_weights(info=before.sd_checkpoint_info, forced_reload=True)
            reason = f"{type(error).__name__}: {error}"
            raise LoraxError(f"{base.path}: the WebUI cannot load it ({reason}). Use another one.") from error
    sd_unet.apply_unet("None")  # another one that an extension draws with, as TensorRT's, has no layers
    with _frozen(loaded):
        _take_networks_off(loaded)
        yield HostModel(base, loaded)


class HostModel:
    """``lorax.models.protocol.Model`` over the host's ``sd_model``, in the host's precision. Its weights are not written."""

    def __init__(self, base: Checkpoint, loaded: Any) -> None:
        if loaded.parameterization == "v":
            raise LoraxError(f"{base.path}: the model predicts {VELOCITY}, not noise, and cannot be run here.")
        self.base, self.device, self._loaded = base, devices.device, loaded
        self.size = config_of(base.unet_file, base.family.name, Path(loaded.used_config)).size
        self.latent_scale = float(loaded.scale_factor)
        self._text = (TwoEncoders if hasattr(loaded, "conditioner") else OneEncoder)(loaded, self.device)

    @property
    def alphas(self) -> torch.Tensor:
        """As the model was trained, whatever schedule the host's settings have pictures drawn by."""
        alphas: torch.Tensor = self._loaded.alphas_cumprod_original
        return alphas.float().cpu()

    def encode(self, prompts: list[str]) -> Conditioning:
        with _as_the_host_runs():
            return self._text.encode(prompts)

    def predict(self, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        with _as_the_host_runs():
            given = self._text.given(conditioning, latents)
            predicted: torch.Tensor = self._loaded.apply_model(latents.to(self.device), times.to(self.device), given)
        return predicted.float()

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        vae = self._loaded.first_stage_model

        def means(x: torch.Tensor) -> torch.Tensor:
            mean: torch.Tensor = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)[0]
            return mean

        # In torch 2.13 on the CPU, a backward pass through frozen convolutions crashes after an encoding with oneDNN.
        with torch.backends.mkldnn.flags(enabled=False):
            return self._by_autoencoder(means, 2 * pictures - 1, pictures.shape[-1] // 8) * self.latent_scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self._loaded.first_stage_model

        def pictures(z: torch.Tensor) -> torch.Tensor:
            drawn: torch.Tensor = vae.decoder(vae.post_quant_conv(z))
            return drawn

        pixels = self._by_autoencoder(pictures, latents / self.latent_scale, latents.shape[-1])
        return (pixels.clamp(-1, 1) + 1) / 2

    @torch.no_grad()
    def _by_autoencoder(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int) -> torch.Tensor:
        """As many at a time as suits latents of this size; in float32, since SDXL's autoencoder overflows in half precision."""
        vae = self._loaded.first_stage_model
        dtype = next(vae.parameters()).dtype
        vae.to(torch.float32)  # which holds all that half precision does
        try:
            return torch.cat([called(vae, work, part.to(self.device).float()) for part in torch.split(x, batch_size(64, size))])
        finally:
            vae.to(dtype)

    def module(self, layer: str) -> nn.Module:
        component, _, path = layer.partition(".")
        return self._unet.get_submodule(path) if component == "unet" else self._text.module(component, path)

    def blocks(self) -> Sequence[nn.Module]:
        """None where the host moves or casts weights by hand while the UNet runs: it would not when a block runs again."""
        if shared.cmd_opts.lowvram or not isinstance(devices.autocast(), (torch.autocast, nullcontext)):
            return []
        return [module for module in self._unet.modules() if type(module).__name__ in BLOCKS]

    @property
    def _unet(self) -> nn.Module:
        unet: nn.Module = self._loaded.model.diffusion_model
        return unet


@contextmanager
def _frozen(loaded: nn.Module) -> Iterator[None]:
    """The host leaves gradients on for the weights, which it never asks for."""
    learning = [parameter for parameter in loaded.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _take_networks_off(loaded: Any) -> None:
    """LoRAs and hypernetworks of the last prompt. The extension Lora restores a layer's weights when the layer next runs.

    OpenCLIP's attention is run by us in its parts, and so is run once as a whole before.
    """
    if hasattr(networks := sys.modules.get("networks"), "loaded_networks"):
        networks.loaded_networks.clear()  # type: ignore[union-attr]
    shared.loaded_hypernetworks.clear()
    with torch.no_grad(), devices.autocast():
        loaded.get_learned_conditioning([""])


@contextmanager
def _as_the_host_runs() -> Iterator[None]:
    """In its precision. Where it moves or casts weights while it runs, a backward pass finds them as they were.

    For it moves and casts by giving a parameter other data, which what is detached from the parameter does not follow.
    """
    with devices.autocast(), torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, _as_it_is):
        yield


def _as_it_is(kept: torch.Tensor) -> torch.Tensor:
    return kept
