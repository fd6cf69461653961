"""Fills a module with a checkpoint's tensors, one at a time, so that nothing is held twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from lorax.errors import LoraxError
from lorax.files import Part

M = TypeVar("M", bound=nn.Module)


def load(make: Callable[[], M], part_of: Callable[[str], Part], device: torch.device | str, dtype: torch.dtype) -> M:
    """The module that ``make`` builds, with each parameter read from its part of a file and stored as ``dtype`` on ``device``.

    Raises LoraxError if a tensor is missing, of another shape or no float.
    """
    with torch.device("meta"):  # neither memory nor time for weights that are about to be replaced
        module = make()
    # diffusers' own ``to`` warns of what is no matter here
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
    """Without the (1, 1) of a pointwise convolution, as which some layouts keep linear layers."""
    return shape[:2] if shape[2:] == (1, 1) else shape
