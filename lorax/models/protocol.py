"""The interface of models that run: those of diffusers (``lorax.runner``) and the one that a WebUI has loaded."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, in the model's dtype and on its device."""

    context: torch.Tensor  # (N, 77, width); for SDXL the outputs of both text encoders, concatenated
    pooled: torch.Tensor | None = None  # (N, width) for SDXL


class Model(Protocol):
    """A base with its text encoders and its autoencoder, frozen, on one device. It predicts noise.

    Its methods take tensors of any precision on any device, and return them on its own.
    """

    base: Checkpoint
    device: torch.device
    size: int  # side of the latents that it was trained on; one latent is 8 by 8 pixels

    @property
    def alphas(self) -> torch.Tensor:
        """Return the share of a picture's variance that is left at each timestep: float32 (1000,) on the CPU."""

    def encode(self, prompts: list[str]) -> Any:
        """Return the conditioning of N prompts for ``predict``. Gradients flow through it to the layers of the text encoders."""

    def predict(self, latents: torch.Tensor, times: torch.Tensor, conditioning: Any) -> torch.Tensor:
        """Return the noise, float32 (N, 4, h, w), in scaled latents (N, 4, h, w) at integer timesteps (N,)."""

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return scaled latents (N, 4, H / 8, W / 8) of pictures (N, 3, H, W) in [0, 1]."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures (N, 3, H, W) in [0, 1] of scaled latents (N, 4, h, w)."""

    def module(self, layer: str) -> nn.Module:
        """Return the linear layer or convolution that computes a layer of the base. Hooks see and replace its output."""

    def blocks(self) -> Sequence[nn.Module]:
        """Return the UNet's residual and transformer blocks. A backward pass may compute them again instead of keeping them."""


class Models(Protocol):
    """Opens bases as models that run, one at a time."""

    def opened(self, base: Checkpoint) -> AbstractContextManager[Model]:
        """Open the base for the length of the block. Raises LoraxError if it cannot be run."""


def check_finite(model: Model, *computed: torch.Tensor) -> None:
    """Raise LoraxError if something that the model has computed is NaN or infinite."""
    if not all(values.isfinite().all() for values in computed):
        raise LoraxError(overflowing(model))


def overflowing(model: Model) -> str:
    """Return what is said of a model whose predictions or pictures are not finite."""
    return (
        f"{model.base.path}: what the model computes is NaN or infinite. Its weights overflow in the precision in "
        "which it runs, or are damaged; use another copy of the checkpoint."
    )
