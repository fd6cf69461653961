"""The interface of a format's module, and helpers. A part is one tensor of a layer; its key is the layer's name with a suffix."""

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
    """One layer of an adapter, read from the file, ready to be decoded by its format."""

    where: str  # the file and the layer, for errors
    tensors: Mapping[str, torch.Tensor]  # float32, by part
    default_scale: float | None  # from a PEFT configuration
    source: str = ""  # the source in a LoRA-X header, for errors
    read_weight: Callable[[Device], torch.Tensor] | None = None  # reads the source's weight; None if it has no such layer
    device: Device = "cpu"  # for a decomposition of the weight

    @property
    def shapes(self) -> Shapes:
        return {part: tuple(tensor.shape) for part, tensor in self.tensors.items()}

    def scale(self, rank: int | None) -> float:
        """Return alpha / rank, or 1 without a rank (A1111, network.py); without alpha the configuration's scale, else 1."""
        if ALPHA not in self.tensors:
            return 1.0 if self.default_scale is None else self.default_scale
        return self.tensors[ALPHA].item() / rank if rank else 1.0

    def weight(self, device: Device = "cpu") -> torch.Tensor:
        """Return the source's weight in its own shape, float32, on ``device``."""
        assert self.read_weight is not None
        return self.read_weight(device)


class Extent(NamedTuple):
    """The weight (outputs, inputs) that a layer can change; None for any size. ``singular_values``: the weight's least number."""

    outputs: int | None
    inputs: int | None
    singular_values: int = 0

    def misfit(self, weight: tuple[int, int]) -> str | None:
        """Return what the layer needs, in words, if a weight of this shape does not fit; None if it fits."""
        if self.singular_values > min(weight):
            return f"{self.singular_values} singular values"
        shape = self.outputs or weight[0], self.inputs or weight[1]
        return None if shape == weight else f"a weight of shape {shape}"


class Format(Protocol):
    """The interface of a format's module. ``check`` is called first; the other functions rely on it."""

    @property
    def TITLE(self) -> str: ...

    @property
    def ON_BASE(self) -> bool:
        """Whether the delta depends on the weight that the adapter was trained on."""

    @property
    def LOW_RANK(self) -> bool:
        """Whether the stored factors bound the rank of the delta."""

    @property
    def SUFFIXES(self) -> Mapping[str, str]:
        """The parts by the suffixes of their keys."""

    def check(self, where: str, shapes: Shapes) -> None:
        """Raise LoraxError unless the parts of a layer go together. ``where`` names the file and the layer."""

    def extent(self, shapes: Shapes) -> Extent:
        """Return the weight that the layer can change."""

    def rank(self, shapes: Shapes) -> int | None:
        """Return the rank as users state it, by which alpha is divided; None if the format has no rank."""

    def decode(self, layer: Layer) -> LowRank:
        """Return the delta dW. Raises LoraxError if the source's weight is needed and is not the right one."""


def require(where: str, shapes: Shapes, *wanted: str) -> None:
    """Raise LoraxError unless all ``wanted`` parts are there."""
    for part in wanted:
        if part not in shapes:
            raise LoraxError(f"{where}: {part} is missing. The file is incomplete; download or export it again.")


def fail(where: str, shapes: Shapes, expected: str) -> LoraxError:
    """Return the error for parts whose shapes do not go together."""
    listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items() if part != ALPHA)
    return LoraxError(f"{where}: the shapes disagree: {listed}; expected {expected}. The file is damaged; export it again.")


def fold(up: torch.Tensor, mid: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a Tucker decomposition dW[o, i, h, w] = up[o, p] mid[p, q, h, w] down[q, i] as two factors.

    Their rank is p, or less if p is more than o: then nothing is larger than the file or the weight, whatever p and q are.
    """
    if len(mid) > len(up):
        return whole(torch.einsum("oqhw,qi->oihw", torch.tensordot(up, mid, 1), down).flatten(1))
    return up, torch.einsum("pqhw,qi->pihw", mid, down).flatten(1)


def shortest(up: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors (m, k) and (k, n) of ``up @ down`` whose rank k is at most m and n, whatever that of the given ones is."""
    if len(down) <= min(len(up), down.shape[1]):
        return up, down
    return whole(up @ down)


def whole(dW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a dense matrix (m, n) as two factors, one of which is the identity of the shorter side."""
    dense = LowRank.of(dW)
    return dense.up, dense.down
