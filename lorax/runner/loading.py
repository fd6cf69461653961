"""Fills a module with a checkpoint's tensors, one at a time, so that nothing is held twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from lorax.errors import LoraxError
from lorax.tensors import TensorFile

M = TypeVar("M", bound=nn.Module)


class Source(NamedTuple):
    """Where a checkpoint keeps a parameter."""

    key: str
    third: int | None = None  # which third of the rows: OpenCLIP keeps q, k and v in one tensor
    transposed: bool = False


def load(
    make: Callable[[], M], file: TensorFile, source: Callable[[str], Source], device: torch.device | str, dtype: torch.dtype
) -> M:
    """The module that ``make`` builds, with each parameter read from its source and stored as ``dtype`` on ``device``.

    Raises LoraxError if a tensor is missing, of another shape or no float.
    """
    with torch.device("meta"):  # neither memory nor time for weights that are about to be replaced
        module = make()
    module = nn.Module.to(module, dtype).to_empty(device=device).eval()  # diffusers' own ``to`` warns of what is no matter here
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_read(file, source(name), tuple(parameter.shape)))
    return module


def _read(file: TensorFile, source: Source, shape: tuple[int, ...]) -> torch.Tensor:
    if source.key not in file.shapes:
        raise LoraxError(f"{file.path}: {source.key} is missing; expected a tensor of shape {shape}. Use a whole checkpoint.")
    tensor = file.get(source.key)
    if not tensor.is_floating_point():
        raise LoraxError(
            f"{file.path}: {source.key} holds {tensor.dtype} values; expected floating point numbers. "
            "Quantized checkpoints cannot be run: use an fp16 or fp32 copy."
        )
    if source.third is not None and len(tensor) % 3 == 0:
        tensor = tensor.chunk(3)[source.third]
    if source.transposed:
        tensor = tensor.T
    if _without_kernel(tuple(tensor.shape)) != _without_kernel(shape):
        raise LoraxError(
            f"{file.path}: {source.key} has shape {tuple(tensor.shape)}; expected {shape}. "
            "The checkpoint's structure is none that is known: use another one."
        )
    return tensor.reshape(shape)


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the (1, 1) of a pointwise convolution, as which some layouts keep linear layers."""
    return shape[:2] if shape[2:] == (1, 1) else shape
