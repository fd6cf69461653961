"""Fills a module with a checkpoint's tensors, one at a time, so that nothing is held twice."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from lorax.errors import LoraxError
from lorax.files import Part

M = TypeVar("M", bound=nn.Module)


def load(make: Callable[[], M], part_of: Callable[[str], Part], device: torch.device | str, dtype: torch.dtype) -> M:
    """Build a module, and read its parameters from a file. Raises LoraxError if one is missing, misshapen or no float."""
    with torch.device("meta"):  # no memory or time is spent on weights that are about to be replaced
        module = make()
    # diffusers' own ``to`` logs warnings that do not matter here
    module = nn.Module.to(module, dtype).to_empty(device=device).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_read(part_of(name), tuple(parameter.shape)))
    return module


def _read(part: Part, shape: tuple[int, ...]) -> torch.Tensor:
    if part.key not in part.file.shapes:
        raise LoraxError(f"{part.file.path}: {part.key} is missing; expected a tensor of shape {shape}. Use a whole checkpoint.")
    tensor = part.get()
    if _without_kernel(tuple(tensor.shape)) != _without_kernel(shape):
        raise LoraxError(
            f"{part.file.path}: {part.key} has shape {tuple(tensor.shape)}; expected {shape}. "
            "The checkpoint's structure is none that is known: use another one."
        )
    return tensor.reshape(shape)


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without a kernel of (1, 1). Some layouts store linear layers as pointwise convolutions."""
    return shape[:2] if shape[2:] == (1, 1) else shape
