"""Which parts of a model are on its graphics card, and in which precision they compute there."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

DECODING = 8000  # bytes that the autoencoder needs at most for a pixel, in float32; measured by python -m bench.behaviour


def precision(device: torch.device) -> torch.dtype:
    """In which frozen weights compute there: half as wide on a graphics card, bfloat16 where the card itself has it."""
    if device.type != "cuda":
        return torch.float32
    try:
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # torch before 2.4 does not count what is emulated anyway
        has_it = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_it else torch.float16


def place(parts: Iterable[nn.Module], device: torch.device | str) -> None:
    """Move what is not there yet."""
    for part in parts:
        if next(part.parameters()).device.type != torch.device(device).type:
            nn.Module.to(part, device)  # diffusers' own ``to`` warns of what is no matter here


def has_room(device: torch.device, pixels: int) -> bool:
    """Whether the autoencoder can work on a picture of this many pixels beside what is on the device."""
    if device.type != "cuda":
        return True
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0] > DECODING * pixels


def freed(parts: Iterable[nn.Module]) -> None:
    """Give their memory back, whoever still holds them. They cannot be used any more."""
    for part in parts:
        part.to_empty(device="meta")
