"""Moves the parts of a model to and from its graphics card."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# Bytes per pixel, as python -m bench.behaviour measures them, with a margin.
DECODING = 8000  # by the autoencoder, in float32
EVALUATING = 640  # by the UNet, in half precision
LITTLE = 2 << 30  # bytes that are always free on a usable card, so that asking is not worth its time


def move(parts: Iterable[nn.Module], device: torch.device | str) -> None:
    """Move the parts that are not on the device yet."""
    for part in parts:
        if next(part.parameters()).device.type != torch.device(device).type:
            nn.Module.to(part, device)  # diffusers' own ``to`` logs warnings that do not matter here


def has_room(device: torch.device, size: int) -> bool:
    """Tell whether ``size`` bytes are free on the device. A CPU counts as large enough."""
    if device.type != "cuda" or size < LITTLE:
        return True
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0] > size
