"""In which precision models compute."""

from __future__ import annotations

import torch


def precision(device: torch.device) -> torch.dtype:
    """In which frozen weights compute there: half as wide on a graphics card, bfloat16 where the card itself has it."""
    if device.type != "cuda":
        return torch.float32
    try:
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # torch before 2.4 does not count what is emulated anyway
        has_it = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_it else torch.float16
