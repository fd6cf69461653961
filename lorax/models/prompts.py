"""What models are told by prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lorax.models.protocol import Model
from lorax.models.sampling import Tick, chunks, unheard

UNET = "unet."


class Prompts:
    """Encodes prompts for a model with these layers adapted: beforehand, and only once, where none of them encodes prompts.

    Its text encoders are then not needed any more. Models that are run on several pictures at a time are small: they encode
    each batch when it is there.
    """

    def __init__(self, model: Model, prompts: Sequence[str], adapted: Iterable[str], still: Tick = unheard) -> None:
        self._model, self._known = model, dict[str, Any]()
        one_by_one = len(chunks(2, model.size)) == 2
        if one_by_one and all(layer.startswith(UNET) for layer in adapted):
            with torch.no_grad():
                for prompt in dict.fromkeys(prompts):
                    still("encoding captions")
                    self._known[prompt] = model.encode([prompt])

    def __call__(self, prompts: list[str]) -> Any:
        """What ``predict`` takes of them."""
        if len(prompts) == 1 and prompts[0] in self._known:
            return self._known[prompts[0]]
        return self._model.encode(prompts)
