"""Narrow bases of every family, which share the text encoders that the real ones share, and adapters of all their layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lorax.checkpoint import open_checkpoint
from tests import builders, xl
from tests.builders import State
from tests.structure import Param, Size, text_params, unet_params

CLIP_L = list(text_params(32, 2, 99))
CLIP_H = list(text_params(48, 3, 99))  # of which the last layer is not used
BIG_G = xl.XL.text()[1]
SD1 = Size(cross=32)
DEPTHS = {"down": [(1, 1)] * 3 + [(0, 0)], "up": [(0, 0, 0)] + [(1, 1, 1)] * 3}
REFINER_DEPTHS = [(0, 0), (2, 2), (2, 2), (0, 0)], 2, [(0, 0, 0), (2, 2, 2), (2, 2, 2), (0, 0, 0)]
REFINER_UNET = list(unet_params((48, 96, 128, 128), 64, *REFINER_DEPTHS, linear=True, pooled=352))


@dataclass(frozen=True)
class Base:
    """``state``: the checkpoint's tensors."""

    path: Path
    state: State


def random_state(params: list[Param], seed: int) -> State:
    """LDM path -> tensor."""
    made = torch.Generator().manual_seed(seed)
    return {p.ldm: torch.randn(p.shape, generator=made) / max(1, int(np.prod(p.shape[1:]))) ** 0.5 for p in params}


def big_g() -> State:
    """SDXL's second encoder, which is the refiner's, in transformers' names."""
    return random_state(BIG_G, 102)


def _under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def _sd1(seed: int) -> State:
    return _under(builders.UNET, random_state(SD1.unet(), seed)) | _under(builders.TE, random_state(CLIP_L, 100))


def _sd2(seed: int) -> State:
    unet = list(unet_params(SD1.channels, 48, DEPTHS["down"], 1, DEPTHS["up"], linear=True))
    text = random_state(CLIP_H, 101) | {"text_projection.weight": torch.ones(48, 48)}
    return _under(builders.UNET, random_state(unet, seed)) | _under("cond_stage_model.model.", xl.open_clip(text))


def _sdxl(seed: int) -> State:
    text = _under(xl.TE1, random_state(CLIP_L, 100)) | _under(xl.TE2, xl.open_clip(big_g()))
    return _under(builders.UNET, random_state(xl.XL.unet(), seed)) | text


def _refiner(seed: int) -> State:
    text = _under("conditioner.embedders.0.model.", xl.open_clip(big_g()))
    return _under(builders.UNET, random_state(REFINER_UNET, seed)) | text


MAKE: dict[str, Callable[[int], State]] = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl, "refiner": _refiner}


def make(folder: Path) -> dict[str, Base]:
    """One base of each family; their text encoders of one kind are the same, their UNets are strangers."""
    bases = {}
    for seed, (name, made) in enumerate(MAKE.items()):
        state = made(seed)
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
        bases[name] = Base(folder / f"{name}.safetensors", state)
    return bases


def save_lora(path: Path, base: Path, wanted: Callable[[str], bool] = lambda layer: True) -> dict[str, np.ndarray]:
    """An adapter of the base's layers that are ``wanted``, in kohya's names; layer -> dW in float64."""
    opened, made = open_checkpoint(base), torch.Generator().manual_seed(7)
    tensors, dense = {}, {}
    for layer in filter(wanted, opened.layers):
        m, n, *kernel = opened.layers[layer]
        up, down = torch.randn(m, 2, *(1 for _ in kernel), generator=made), torch.randn(2, n, *kernel, generator=made)
        name = opened.names.kohya(layer)
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(2.0)}
        dense[layer] = up.double().flatten(1).numpy() @ down.double().flatten(1).numpy()
    save_file(tensors, path)
    return dense


def dense(path: Path, base: Path) -> dict[str, np.ndarray]:
    """Layer of ``base`` -> dW of a written adapter."""
    opened = open_checkpoint(base)
    return {opened.names[name]: dW for name, dW in builders.dense(path).items()}
