"""What ``bridge`` and ``refine`` need of a model that runs: diffusers' (``lorax.runner.runner``), or what a WebUI has loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from lorax.checkpoint.checkpoint import Checkpoint


class Model(Protocol):
    """A base with its text encoders and its autoencoder, frozen, on one device. It predicts noise.

    What it is given may be on any device, and what it returns is on its own.
    """

    base: Checkpoint
    device: torch.device
    size: int  # of the latents that are at home in it, a side; 8 pixels each

    @property
    def alphas(self) -> torch.Tensor:
        """The share of a picture's variance that is left at each time, float32 (1000,) on the CPU."""

    def encode(self, prompts: list[str]) -> Any:
        """What ``predict`` takes of N prompts. A gradient reaches the layers of the text encoders through it."""

    def predict(self, latents: torch.Tensor, times: torch.Tensor, conditioning: Any) -> torch.Tensor:
        """The noise, float32 (N, 4, h, w), in scaled latents (N, 4, h, w) at integer times (N,)."""

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Scaled latents (N, 4, H / 8, W / 8) of pictures (N, 3, H, W) in [0, 1]."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [0, 1] of scaled latents (N, 4, h, w)."""

    def module(self, layer: str) -> nn.Module:
        """What computes a layer of the base: a linear layer or a convolution, whose output hooks can see and replace."""

    def blocks(self) -> Sequence[nn.Module]:
        """The UNet's residual and transformer blocks: what may be computed again in a backward pass instead of being kept."""


class Models(Protocol):
    """Runs bases, one at a time."""

    def opened(self, base: Checkpoint) -> AbstractContextManager[Model]:
        """The base as a model, for the length of the block. Raises LoraxError where it cannot be run."""
