"""The interface of a format's module, and helpers that several formats share.

A part is one tensor of a layer. Its key in the file is the layer's name followed by a suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from lorax.errors import LoraxError
from lorax.low_rank import LowRank

ALPHA = "alpha"  # the same name in every format
Shapes = Mapping[str, tuple[int, ...]]
Device = torch.device | str


@dataclass(frozen=True)
class Layer:
    """One layer of an adapter, read from the file, with what its format needs to decode it.

    ``where``: the file and the layer, for errors. ``tensors``: part -> float32. ``default_scale``: the scale that a PEFT
    configuration gives. ``source``: the source checkpoint in words, if a LoRA-X header names it. ``read_weight``: reads the
    source's weight; None if there is no such layer. ``device``: where the weight is decomposed if the format needs that.
    """

    where: str
    tensors: Mapping[str, torch.Tensor]
    default_scale: float | None
    source: str = ""
    read_weight: Callable[[Device], torch.Tensor] | None = None
    device: Device = "cpu"

    @property
    def shapes(self) -> Shapes:
        return {part: tuple(tensor.shape) for part, tensor in self.tensors.items()}

    def scale(self, rank: int | None) -> float:
        """alpha / rank, as A1111 has it (network.py).

        Without alpha it is the configuration's scale, else 1. With alpha and without a rank it is 1.
        """
        if ALPHA not in self.tensors:
            return 1.0 if self.default_scale is None else self.default_scale
        return self.tensors[ALPHA].item() / rank if rank else 1.0

    def weight(self, device: Device = "cpu") -> torch.Tensor:
        """The source's weight in its own shape, float32, on ``device``."""
        assert self.read_weight is not None
        return self.read_weight(device)


class Extent(NamedTuple):
    """The weight (outputs, inputs) that a layer can change. None: any size; ``singular_values``: the fewest that it must have."""

    outputs: int | None
    inputs: int | None
    singular_values: int = 0

    def misfit(self, weight: tuple[int, int]) -> str | None:
        """The layer's demand in words if a weight of this shape does not meet it; None if it does."""
        if self.singular_values > min(weight):
            return f"{self.singular_values} singular values"
        shape = self.outputs or weight[0], self.inputs or weight[1]
        return None if shape == weight else f"a weight of shape {shape}"


class Format(Protocol):
    """A module of this folder. ``check`` is called first; the other functions rely on shapes that fit together."""

    @property
    def TITLE(self) -> str: ...

    @property
    def ON_BASE(self) -> bool:
        """Whether the delta depends on the weight that the adapter was trained on."""

    @property
    def LOW_RANK(self) -> bool:
        """Whether the stored factors bound the rank of the delta. Deltas of other formats may have any rank."""

    @property
    def SUFFIXES(self) -> Mapping[str, str]:
        """End of a key -> part."""

    def check(self, where: str, shapes: Shapes) -> None:
        """Raise LoraxError unless the parts of one layer fit together. ``where`` names the file and the layer."""

    def extent(self, shapes: Shapes) -> Extent:
        """The weight that the layer can change."""

    def rank(self, shapes: Shapes) -> int | None:
        """The rank as users state it, by which alpha is divided; None if the format has none."""

    def decode(self, layer: Layer) -> LowRank:
        """The delta dW. Raises LoraxError if the source's weight is needed and is not the right one."""


def require(where: str, shapes: Shapes, *wanted: str) -> None:
    """Raise LoraxError unless all ``wanted`` parts are there."""
    for part in wanted:
        if part not in shapes:
            raise LoraxError(f"{where}: {part} is missing. The file is incomplete; download or export it again.")


def fail(where: str, shapes: Shapes, expected: str) -> LoraxError:
    """The error for parts whose shapes do not fit together."""
    listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items() if part != ALPHA)
    return LoraxError(f"{where}: the shapes disagree: {listed}; expected {expected}. The file is damaged; export it again.")


def fold(up: torch.Tensor, mid: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A Tucker decomposition as two factors: dW[o, i, h, w] = up[o, p] mid[p, q, h, w] down[q, i]. The rank stays p."""
    return up, torch.einsum("pqhw,qi->pihw", mid, down).flatten(1)
