"""Bases and adapters of real sizes without real weights: power-law spectra, a few tensors in a file that many layers share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.layers import Layers, Shape
from lorax.checkpoint import Checkpoint, UNetNames, families
from lorax.files import Part, open_tensors
from lorax.formats import AdapterFile
from lorax.formats.configuration import Configuration
from lorax.options import Options
from lorax.pairing import Pair
from lorax.reasons import Reason, Why
from lorax.transfer import Plan

POWER = 0.5  # of the i-th singular value, i^-0.5
NOISE = 0.1  # of the relative's weights, in their standard deviations


@dataclass(frozen=True)
class Relatives:
    """Two bases that share no file: ``source``, and ``target``, which is the source with noise."""

    source: Path
    target: Path

    @classmethod
    def make(cls, folder: Path, shapes: Iterable[Shape]) -> Relatives:
        made = torch.Generator().manual_seed(0)
        source = {_key(shape): _weight(shape, made) for shape in sorted(set(shapes))}
        target = {key: W + NOISE * W.std() * torch.randn(W.shape, generator=made) for key, W in source.items()}
        both = cls(folder / "source.safetensors", folder / "target.safetensors")
        for path, state in ((both.source, source), (both.target, target)):
            save_file({key: W.half() for key, W in state.items()}, path)
        return both

    def open(self, layers: Layers) -> tuple[Checkpoint, Checkpoint]:
        return _base(self.source, layers), _base(self.target, layers)

    def plans(self, layers: Layers, options: Options, rank: int, adapters: int) -> list[Plan]:
        """Each layer is paired with its namesake."""
        source, target = self.open(layers)
        pairs: dict[str, Pair | None] = {name: Pair(name, name, Reason(Why.SAME_NAME)) for name in layers}
        factors = [Factors(layers, rank, number) for number in range(adapters)]
        files = [AdapterFile(one.path, one, Configuration(one.path, {})) for one in factors]
        return [Plan(file, source, target, options, pairs, {}, vectors=[]) for file in files]


class Factors:
    """The tensors of an adapter, random and in memory; layers of one shape share them."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, layers: Layers, rank: int, seed: int) -> None:
        self.path = Path(f"adapter-{seed}.safetensors")
        made = torch.Generator().manual_seed(seed)
        ups = {shape: torch.randn(shape[0], rank, generator=made) for shape in set(layers.values())}
        downs = {shape: torch.randn(rank, shape[1], generator=made) for shape in set(layers.values())}
        self._tensors = {f"{name}.lora_up.weight": ups[shape] for name, shape in layers.items()}
        self._tensors |= {f"{name}.lora_down.weight": downs[shape] for name, shape in layers.items()}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def get(self, key: str) -> torch.Tensor:
        return self._tensors[key]


def _weight(shape: Shape, made: torch.Generator) -> torch.Tensor:
    """Between random bases; of a side that is much longer than the other, random directions are nearly orthogonal as they are."""
    p = min(shape)
    U, V = (torch.randn(n, p, generator=made) for n in shape)
    U, V = (Q / n**0.5 if (n := len(Q)) >= 4 * p else torch.linalg.qr(Q).Q for Q in (U, V))
    return (U * torch.arange(1.0, p + 1).pow(-POWER)) @ V.mT


def _base(path: Path, layers: Layers) -> Checkpoint:
    file, family = open_tensors(path), families.SD1 if any(name.startswith("te.") for name in layers) else families.SDXL
    return Checkpoint(path, family, UNetNames({}), {name: Part(file, _key(shape)) for name, shape in layers.items()})


def _key(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"
