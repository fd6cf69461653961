"""Stand-ins for tensor files: of headers alone, and in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from lorax.checkpoint import Checkpoint, UNetNames, families
from lorax.files import Part
from tests import builders

Shapes = dict[str, tuple[int, ...]]


class HeaderOnly:
    """A tensor file of which only the header exists."""

    path = Path("base.safetensors")

    def __init__(self, shapes: Shapes) -> None:
        self.metadata: dict[str, str] = {}
        self.shapes = shapes

    def get(self, key: str) -> torch.Tensor:
        raise AssertionError(f"names need no weights, but {key} was read")


class InMemory:
    """A tensor file that is a dict."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, state: builders.State, path: Path) -> None:
        self.state, self.path = state, path
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}

    def get(self, key: str) -> torch.Tensor:
        return self.state[key]


def opened(state: builders.State) -> Checkpoint:
    """Open a base in memory, of whatever family."""
    unet = {key.removeprefix(builders.UNET): value for key, value in state.items() if key.startswith(builders.UNET)}
    file = InMemory(unet, Path("memory.safetensors"))
    layers = {key.removesuffix(".weight"): value for key, value in unet.items() if key.endswith(".weight") and value.dim() > 1}
    where = {f"unet.{layer}": Part(file, f"{layer}.weight") for layer in layers}
    return Checkpoint(file.path, families.SD1, UNetNames.from_ldm(unet), where)
