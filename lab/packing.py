"""Packs what is committed: a tensor that two models share once, others in 8 bits a value, what is added to a sibling in fewer."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from lorax.demo.bundle import ADDED, SCALE, SHARED, SIBLING

GREATEST = 127  # of an integer of 8 bits
LESS = 7  # of a difference, which compresses to three bits a value
SMALLEST = torch.finfo(torch.float32).tiny  # a row of zeros has the scale zero


def pack(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    sibling: str | None = None,
    its: Mapping[str, torch.Tensor] | None = None,
    added: bool = False,
) -> None:
    """Store a model or a LoRA in 8 bits a value, without what the model called ``sibling`` has too, under whatever name.

    If ``added``, what it has of its own is stored as what is added to the sibling's tensor of that name, in ``LESS`` steps to
    each side.
    """
    content = {_fingerprint(value): key for key, value in (its or {}).items()}
    shared = {key: content[mark] for key, value in tensors.items() if (mark := _fingerprint(value)) in content}
    own = {key: value for key, value in tensors.items() if key not in shared}
    described = {SIBLING: sibling, SHARED: json.dumps(shared)} if sibling and (shared or added) else {}
    if added:
        if not its:
            raise ValueError(f"{path}: only what is added to a sibling can be stored as added, and none is given.")
        own = {key: value - its[key] for key, value in own.items()}
        described[ADDED] = json.dumps(sorted(own))
    greatest = LESS if added else GREATEST
    stored = {name: part for key, value in own.items() for name, part in _rounded(key, value.contiguous(), greatest).items()}
    packed = lzma.compress(save(stored, {**metadata, **described}), preset=9 | lzma.PRESET_EXTREME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)


def _rounded(key: str, value: torch.Tensor, greatest: int) -> dict[str, torch.Tensor]:
    """A tensor as integers of 8 bits or of fewer, with a scale for each row or column, whichever are fewer.

    As they are: vectors, integers, and what has a row too small for a scale of its dtype.
    """
    if value.ndim < 2 or not value.is_floating_point():
        return {key: value}
    kept = 0 if len(value) <= value[0].numel() else 1
    others = [axis for axis in range(value.ndim) if axis != kept]
    largest = value.abs().amax(others, keepdim=True)
    scale = (largest.float() / greatest).to(value.dtype)
    if (scale < torch.finfo(value.dtype).smallest_normal / 8)[largest > 0].any():
        return {key: value}
    steps = (value.float() / scale.float().clamp_min(SMALLEST)).round().clamp(-greatest, greatest)
    return {key: steps.to(torch.int8), f"{key}{SCALE}": scale}


def _fingerprint(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.contiguous().numpy().tobytes()
