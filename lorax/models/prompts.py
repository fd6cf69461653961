"""Encodes prompts for a model, each only once if possible."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lorax.models.protocol import Model
from lorax.models.sampling import batches
from lorax.progress import CAPTIONS, Meter

UNET = "unet."


class Prompts:
    """An encoder of prompts for a model whose layers ``adapted`` have deltas.

    For a large model, which runs one picture at a time, all prompts are encoded in advance if no adapted layer is in a text
    encoder. The text encoders are then free to leave the device.
    """

    def __init__(self, model: Model, prompts: Sequence[str], adapted: Iterable[str], meter: Meter) -> None:
        self._model, self._encoded = model, dict[str, Any]()
        one_by_one = len(batches(2, model.size)) == 2
        if one_by_one and all(layer.startswith(UNET) for layer in adapted):
            with torch.no_grad():
                different = list(dict.fromkeys(prompts))
                for number, prompt in enumerate(different):
                    meter.at(number, len(different), CAPTIONS)
                    self._encoded[prompt] = model.encode([prompt])

    def __call__(self, prompts: list[str]) -> Any:
        """Return the conditioning of these prompts."""
        if len(prompts) == 1 and prompts[0] in self._encoded:
            return self._encoded[prompts[0]]
        return self._model.encode(prompts)
