"""Devices: which one computes, and in which precision models run on it."""

from __future__ import annotations

import logging
import re

import torch

from lorax.errors import LoraxError

log = logging.getLogger(__name__)


def precision(device: torch.device) -> torch.dtype:
    """In which frozen weights compute there: half as wide on a graphics card, bfloat16 where the card itself has it."""
    if device.type != "cuda":
        return torch.float32
    try:
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # torch before 2.4 does not count what is emulated anyway
        has_it = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_it else torch.float16


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is CUDA where there is one, else the CPU.

    ``mps`` is the CPU too, and a warning is logged: Apple's MPS has no float64, in which the subspaces are computed. Raises
    LoraxError when the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    exists = available.get(kind, False) and (not colon or (kind == "cuda" and re.fullmatch("[0-9]{1,3}", number)))
    if not exists or (number and int(number) >= torch.cuda.device_count()):
        raise LoraxError(
            f"device {name!r}: not available here. Choose auto, or one of {', '.join(d for d in available if available[d])}."
        )
    if name == "mps":
        log.warning("device mps: it has no float64, which the transfer needs. The CPU is used instead.")
        return torch.device("cpu")
    return torch.device(name)
