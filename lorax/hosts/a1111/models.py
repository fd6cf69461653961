"""Runs the models that AUTOMATIC1111's WebUI has loaded. It switches checkpoints by itself, so nothing is loaded twice."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from modules import devices, sd_models, sd_unet, shared
from torch import nn

from lorax.checkpoint import VELOCITY, Checkpoint, config_of
from lorax.errors import LoraxError, is_out_of_memory, release
from lorax.hosts.a1111.text import OneEncoder, TwoEncoders, call_through
from lorax.models import Conditioning, batch_size, check

BLOCKS = ("ResBlock", "BasicTransformerBlock")  # classes of these names are in ldm and in sgm


def let_go(error: BaseException) -> None:
    """Free what an error holds on the device, before something else is loaded there."""
    release(error)
    devices.torch_gc()


class HostModels:
    """Checkpoints as the WebUI loads them; implements ``lorax.models.Models``."""

    @contextmanager
    def opened(self, base: Checkpoint) -> "Iterator[HostModel]":
        """Load the base in the WebUI's queue. The checkpoint that was loaded before is not restored here."""
        info = next((info for info in list(sd_models.checkpoints_list.values()) if Path(info.filename) == base.path), None)
        if info is None:
            raise LoraxError(f"{base.path}: not listed by the WebUI any more. Refresh the lists and choose another checkpoint.")
        check(base)
        before = sd_models.model_data.sd_model
        with sd_models.SkipWritingToConfig():  # the user's selection stays as it is
            try:
                loaded = sd_models.reload_model_weights(info=info, forced_reload=_is_replaced(info))
            except Exception as error:  # a pruned SDXL is mistaken for SSD-1B; a damaged file can fail anywhere
                let_go(error)
                if before is not None:  # off the device and without its hooks by now, though the WebUI counts it as loaded
                    sd_models.reload_model_weights(info=before.sd_checkpoint_info, forced_reload=True)
                if is_out_of_memory(error):
                    raise LoraxError(
                        f"{base.path}: not enough memory to load it. Close other programs, and try again."
                    ) from error
                reason = f"{type(error).__name__}: {error}"
                raise LoraxError(f"{base.path}: the WebUI cannot load it ({reason}). Use another one.") from error
        sd_unet.apply_unet("None")  # an extension's replacement, such as TensorRT's, has no layers to hook into
        with _frozen(loaded):
            _remove_networks(loaded)
            yield HostModel(base, loaded)


def _is_replaced(info: Any) -> bool:
    """Tell whether a file is loaded that had this name before. The WebUI, which compares names, would take it for this one."""
    loaded = [model.sd_checkpoint_info for model in sd_models.model_data.loaded_sd_models]
    return any(one.filename == info.filename and one.sha256 != info.sha256 for one in loaded)


class HostModel:
    """The WebUI's ``sd_model`` in the WebUI's precision; implements ``lorax.models.Model``. No weight is changed."""

    def __init__(self, base: Checkpoint, loaded: Any) -> None:
        if loaded.parameterization == "v":
            raise LoraxError(f"{base.path}: the model predicts {VELOCITY}, not noise. LoRA-X cannot run such a model.")
        self.base, self.device, self._loaded = base, devices.device, loaded
        self.size = config_of(base.unet_file, base.family.name, Path(loaded.used_config)).size
        self.latent_scale = float(loaded.scale_factor)
        self._text = (TwoEncoders if hasattr(loaded, "conditioner") else OneEncoder)(loaded, self.device)

    @property
    def alphas(self) -> torch.Tensor:
        """The schedule that the model was trained with, whatever schedule the WebUI's settings use for pictures."""
        return self._loaded.alphas_cumprod_original.float().cpu()

    def encode(self, prompts: list[str]) -> Conditioning:
        with _host_precision():
            return self._text.encode(prompts)

    def predict(self, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        with _host_precision():
            inputs = self._text.model_inputs(conditioning, latents)
            predicted: torch.Tensor = self._loaded.apply_model(latents.to(self.device), times.to(self.device), inputs)
        return predicted.float()

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        vae = self._loaded.first_stage_model
        # In torch 2.13 on the CPU, a backward pass through frozen convolutions crashes after an encoding with oneDNN.
        with torch.backends.mkldnn.flags(enabled=False):
            means = self._run_autoencoder(
                lambda x: vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)[0], 2 * pictures - 1, pictures.shape[-1] // 8
            )
        return means * self.latent_scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae, scaled = self._loaded.first_stage_model, latents / self.latent_scale
        pixels = self._run_autoencoder(lambda z: vae.decoder(vae.post_quant_conv(z)), scaled, latents.shape[-1])
        return (pixels.clamp(-1, 1) + 1) / 2

    @torch.no_grad()
    def _run_autoencoder(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int) -> torch.Tensor:
        """Run the autoencoder in batches for latents of this size; in float32, since SDXL's overflows in half precision."""
        vae = self._loaded.first_stage_model
        dtype = next(vae.parameters()).dtype
        vae.to(torch.float32)  # lossless, and so is the way back
        try:
            parts = torch.split(x, batch_size(64, size))
            return torch.cat([call_through(vae, work, part.to(self.device).float()) for part in parts])
        finally:
            vae.to(dtype)

    def module(self, layer: str) -> nn.Module:
        component, _, path = layer.partition(".")
        return self._unet.get_submodule(path) if component == "unet" else self._text.module(component, path)

    def blocks(self) -> Sequence[nn.Module]:
        """Return no blocks if the WebUI moves or casts weights while the UNet runs: it would not when a block runs again."""
        if shared.cmd_opts.lowvram or not isinstance(devices.autocast(), (torch.autocast, nullcontext)):
            return []
        return [module for module in self._unet.modules() if type(module).__name__ in BLOCKS]

    @property
    def _unet(self) -> nn.Module:
        return self._loaded.model.diffusion_model


@contextmanager
def _frozen(loaded: nn.Module) -> Iterator[None]:
    """Switch the weights' gradients off within the block; the WebUI leaves them on."""
    trainable = [parameter for parameter in loaded.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _remove_networks(loaded: Any) -> None:
    """Remove the last prompt's LoRAs and hypernetworks. The extension Lora restores a layer's weights when it next runs."""
    if hasattr(networks := sys.modules.get("networks"), "loaded_networks"):
        networks.loaded_networks.clear()  # type: ignore[union-attr]
    shared.loaded_hypernetworks.clear()
    with torch.no_grad(), devices.autocast():  # OpenCLIP's attention must run once as a whole, since we run its parts
        loaded.get_learned_conditioning([""])


@contextmanager
def _host_precision() -> Iterator[None]:
    """Run the block in the WebUI's precision, such that a backward pass finds the weights as the forward pass used them.

    The WebUI moves or casts a weight by assigning other data to the parameter. Saved tensors are detached, and keep the old data.
    """
    with devices.autocast(), torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved):
        yield
