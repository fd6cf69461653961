"""Finds the layers of a base in the models that a trainer has loaded."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from lorax.checkpoint import Checkpoint, Family, UNetNames, families, is_layer, text_path
from lorax.errors import LoraxError
from lorax.files import Part
from lorax.models import text_module


def find(base: Checkpoint, layer: str, unet: nn.Module | None, text_encoders: Sequence[nn.Module] = ()) -> nn.Linear | nn.Conv2d:
    """Return the module of a layer. Text encoders are in the family's order. Raises LoraxError if models are not of this base."""
    component, _, path = layer.partition(".")
    module: nn.Module | None = None
    with suppress(AttributeError):
        if component == "unet":
            assert unet is not None
            module = unet.get_submodule(path if hasattr(unet, "input_blocks") else base.unet_names.to_diffusers(path))
        else:
            number = [encoder.name for encoder in base.family.text_encoders].index(component)
            module = text_module(text_encoders[number], path)
    if isinstance(module, nn.Linear | nn.Conv2d) and tuple(module.weight.shape) in shapes(base, layer):
        return module
    raise LoraxError(
        f"{base.path}: its {layer} of shape {base.layers[layer]} is not in the loaded model. Give the base that was loaded."
    )


def shapes(base: Checkpoint, layer: str) -> tuple[tuple[int, ...], ...]:
    """Return the weight's possible shapes in a loaded model: a linear layer may be a 1x1 convolution there, or the reverse."""
    shape = base.layers[layer]
    flat = shape[:2]
    return (shape, flat) if shape[2:] == (1, 1) else (shape, (*flat, 1, 1)) if len(shape) == 2 else (shape,)


class _Model:
    """The parameters of a loaded model; implements ``lorax.files.TensorFile``."""

    def __init__(self, model: nn.Module) -> None:
        self.metadata: dict[str, str] = {}
        self.path = Path(f"the loaded {type(model).__name__}")
        self._tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def get(self, key: str) -> torch.Tensor:
        return self._tensors[key]


def loaded(unet: nn.Module, text_encoders: Sequence[nn.Module], family: Family | None = None) -> Checkpoint:
    """Return loaded models as a base without a file, in their precision. It has no hashes.

    ``family``: the family, if it is known; kohya loads SD 2.x with SD 1.x's structure. Raises LoraxError if it is not recognised.
    """
    file = _Model(unet)
    ldm = hasattr(unet, "input_blocks")
    names = UNetNames.from_ldm(file.shapes) if ldm else UNetNames.from_diffusers(file.shapes)
    family = family or families.detect(file.shapes)
    if family is None or not family.components:
        raise LoraxError(f"{file.path}: not a UNet of a supported family.")
    parts = {
        f"{component.name}.{text_path(key.removesuffix('.weight'))}": Part(encoder, key)
        for component, encoder in zip(family.text_encoders, map(_Model, text_encoders), strict=False)
        for key, shape in encoder.shapes.items()
        if is_layer(key, shape)
    }
    for key, shape in file.shapes.items():
        if is_layer(key, shape) and (names.has_ldm(key) if ldm else names.has_diffusers(key)):
            path = key.removesuffix(".weight")
            parts[f"unet.{path if ldm else names.to_ldm(path)}"] = Part(file, key)
    return Checkpoint(file.path, family, names, parts)
