"""Where the layers of a base are in the models that a trainer has loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lorax.checkpoint import TEXT_MODEL, Checkpoint, Family, UNetNames, families, is_layer, text_path
from lorax.errors import LoraxError
from lorax.files import Part


def find(base: Checkpoint, layer: str, unet: nn.Module | None, text_encoders: Sequence[nn.Module] = ()) -> nn.Linear | nn.Conv2d:
    """The module of a layer. ``unet`` has diffusers' names or LDM's; ``text_encoders`` are transformers', in the family's order.

    Raises LoraxError when the models are not of this base.
    """
    component, _, path = layer.partition(".")
    encoders = [c.name for c in base.family.components if c.name != "unet"]
    if component == "unet":
        assert unet is not None
        root, paths = unet, [path if hasattr(unet, "input_blocks") else base.unet_names.to_diffusers(path)]
    else:
        root, paths = text_encoders[encoders.index(component)], [path, path.removeprefix(TEXT_MODEL)]
    for one in paths:  # transformers 5 has no text_model between
        try:
            module = root.get_submodule(one)
        except AttributeError:
            continue
        if isinstance(module, nn.Linear | nn.Conv2d) and tuple(module.weight.shape) in shapes(base, layer):
            return module
    raise LoraxError(
        f"{base.path}: its {layer} of shape {base.layers[layer]} is not in the loaded model. Give the base that was loaded."
    )


def shapes(base: Checkpoint, layer: str) -> tuple[tuple[int, ...], ...]:
    """Those that a loaded model may give to the weight: some keep a linear projection as a kernel of 1 by 1, or the reverse."""
    shape = base.layers[layer]
    flat = shape[:2]
    return (shape, flat) if shape[2:] == (1, 1) else (shape, (*flat, 1, 1)) if len(shape) == 2 else (shape,)


class _Model:
    """A loaded model's parameters as a file of tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.metadata: dict[str, str] = {}
        self.path = Path(f"the loaded {type(model).__name__}")
        self._tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def get(self, key: str) -> torch.Tensor:
        return self._tensors[key]


def loaded(unet: nn.Module, text_encoders: Sequence[nn.Module], family: Family | None = None) -> Checkpoint:
    """The base that loaded models are, in their precision: for what has no file at hand. It has neither a name nor a hash.

    ``family``: where it is known, since kohya loads SD 2.x with SD 1.x's structure. Raises LoraxError when it cannot be told.
    """
    file = _Model(unet)
    ldm = hasattr(unet, "input_blocks")
    names = UNetNames.from_ldm(file.shapes) if ldm else UNetNames.from_diffusers(file.shapes)
    family = family or families.detect(file.shapes)
    if family is None or not family.components:
        raise LoraxError(f"{file.path}: not a UNet of a supported family.")
    encoders = [component for component in family.components if component.name != "unet"]
    where = {
        f"{component.name}.{text_path(key.removesuffix('.weight'))}": Part(encoder, key)
        for component, encoder in zip(encoders, map(_Model, text_encoders), strict=False)
        for key, shape in encoder.shapes.items()
        if is_layer(key, shape)
    }
    for key, shape in file.shapes.items():
        if is_layer(key, shape) and (names.has_ldm(key) if ldm else names.has_diffusers(key)):
            path = key.removesuffix(".weight")
            where[f"unet.{path if ldm else names.to_ldm(path)}"] = Part(file, key)
    return Checkpoint(file.path, family, names, where)
