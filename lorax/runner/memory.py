"""Which parts of a model are on its graphics card."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# Bytes for a pixel, as python -m bench.behaviour measures them, and some more.
DECODING = 8000  # of the autoencoder, in float32
EVALUATING = 640  # of the UNet, in half precision
LITTLE = 2 << 30  # bytes that are there, or all is lost anyway


def place(parts: Iterable[nn.Module], device: torch.device | str) -> None:
    """Move what is not there yet."""
    for part in parts:
        if next(part.parameters()).device.type != torch.device(device).type:
            nn.Module.to(part, device)  # diffusers' own ``to`` warns of what is no matter here


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes are free beside what is on the device. Little is not asked for: asking takes time."""
    if device.type != "cuda" or size < LITTLE:
        return True
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0] > size


def freed(parts: Iterable[nn.Module]) -> None:
    """Give their memory back, whoever still holds them. They cannot be used any more."""
    for part in parts:
        part.to_empty(device="meta")
