"""Where the layers of a base are in the models that a trainer has loaded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.layers import TEXT_MODEL


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
