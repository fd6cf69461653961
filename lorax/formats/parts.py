"""What a format's module offers, and what all of them share. A part is one tensor of a layer: a key without the layer's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from lorax.errors import LoraxError
from lorax.low_rank import LowRank

ALPHA = "alpha"  # every format has it under this name
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """What the file holds of one layer, and what it is for.

    ``where``: the file and the layer, for errors; ``tensors``: part -> float32; ``default_scale``: from a configuration beside
    them; ``weight``: reads the source's weight in its own shape as float32.
    """

    where: str
    tensors: Mapping[str, torch.Tensor]
    default_scale: float | None
    weight: Callable[[], torch.Tensor]

    @property
    def shapes(self) -> Shapes:
        return {part: tuple(tensor.shape) for part, tensor in self.tensors.items()}

    def scale(self, rank: int | None) -> float:
        """alpha / rank; without alpha what the configuration gives, else 1; and 1 where there is no rank (A1111, network.py)."""
        if ALPHA not in self.tensors:
            return 1.0 if self.default_scale is None else self.default_scale
        return self.tensors[ALPHA].item() / rank if rank else 1.0


class Format(Protocol):
    """A module of this folder. ``check`` comes first: the others rely on shapes that fit together."""

    @property
    def TITLE(self) -> str: ...

    @property
    def ON_BASE(self) -> bool:
        """Whether the delta depends on the weight that the adapter was trained on."""

    @property
    def SUFFIXES(self) -> Mapping[str, str]:
        """End of a key -> part."""

    def check(self, where: str, shapes: Shapes) -> None:
        """Raise LoraxError unless the parts of one layer fit together. ``where`` names the file and the layer."""

    def shape(self, shapes: Shapes) -> tuple[int | None, int | None]:
        """(m, n) of the delta; None where the base's weight decides."""

    def rank(self, shapes: Shapes) -> int | None:
        """As a user would say it, and what alpha is divided by; None where there is none."""

    def decode(self, layer: Layer) -> LowRank:
        """The delta."""


def require(where: str, shapes: Shapes, *wanted: str) -> None:
    for part in wanted:
        if part not in shapes:
            raise LoraxError(f"{where}: {part} is missing. The file is incomplete; download or export it again.")


def fail(where: str, shapes: Shapes, expected: str) -> LoraxError:
    """For parts that do not fit together."""
    listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items() if part != ALPHA)
    return LoraxError(f"{where}: the shapes disagree: {listed}; expected {expected}. The file is damaged; export it again.")


def fold(up: torch.Tensor, mid: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A Tucker decomposition as two factors: dW[o, i, h, w] = up[o, p] mid[p, q, h, w] down[q, i], and the rank stays p."""
    return up, torch.einsum("pqhw,qi->pihw", mid, down).flatten(1)
