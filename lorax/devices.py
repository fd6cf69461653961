"""Chooses the device that computes, and the precision in which models run on it."""

import logging
import re

import torch

from lorax.errors import LoraxError

log = logging.getLogger(__name__)


def precision(device: torch.device) -> torch.dtype:
    """Return the dtype of frozen weights on the device: float32 on a CPU, on a graphics card bfloat16 or else float16."""
    if device.type != "cuda":
        return torch.float32
    try:
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # torch before 2.4 never counts emulation
        has_it = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_it else torch.float16


def pick_device(name: str) -> torch.device:
    """Return the named device. ``auto`` is CUDA or else the CPU, and ``mps`` the CPU. Raises LoraxError if there is none."""
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
