"""A base model as a lazy mapping from layers to weights. It is never loaded whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from lorax.checkpoint import families, unsupported
from lorax.checkpoint.families import Family
from lorax.checkpoint.identity import Identity
from lorax.checkpoint.layer_names import UNetNames
from lorax.checkpoint.layouts import LDM_SIGN, Layout, is_layer, layout_of
from lorax.checkpoint.names import AdapterNames
from lorax.checkpoint.prediction import ZERO_SNR, prediction_of
from lorax.errors import LoraxError, UnsupportedFamily, reading
from lorax.files import Part, TensorFile, is_finite, title_of


class Checkpoint:
    """A base: its family, its layers and, on demand, their weights.

    ``layers``: layer -> shape as stored, of the linear layers and convolutions of the UNet and the text encoders. ``vectors``:
    parameter of one dimension -> size, of norms and biases, as ``unet.out.0.weight``; those of an encoder that is stored under
    OpenCLIP's names are not listed. ``names``: what adapters call the layers. ``identity``: the base's hashes.
    """

    def __init__(
        self,
        path: Path,
        family: Family,
        names: UNetNames,
        where: Mapping[str, Part],
        vectors: Mapping[str, int] | None = None,
        sha256: str | None = None,
    ) -> None:
        self.path, self.family, self.unet_names, self._where = path, family, names, where
        self.layers = {layer: part.shape for layer, part in where.items()}
        self.vectors = vectors or {}
        self.names = AdapterNames(family, names, self.layers, self.vectors)
        self.identity = Identity(path, where, sha256)

    @property
    def title(self) -> str:
        """The base's name for users."""
        return title_of(self.path)

    @cached_property
    def prediction(self) -> str | None:
        """What the UNet predicts, in the words of ``lorax.checkpoint.prediction``; None if nothing tells."""
        return prediction_of(self.path, self.unet_file)

    @property
    def has_zero_snr(self) -> bool:
        """Whether the file is marked as trained with a schedule that ends in pure noise."""
        return ZERO_SNR in self.unet_file.shapes

    @property
    def unet_file(self) -> TensorFile:
        """A file that holds at least a part of the UNet."""
        return next(part.file for layer, part in self._where.items() if layer.startswith("unet."))

    def stored(self, layer: str) -> torch.Tensor:
        """The weight in its own shape and dtype, mapped from the file. Raises LoraxError if it is not floating point."""
        part = self._where[layer]
        with reading(f"{part.file.path}: {part.key}", "a weight of a base checkpoint"):
            return part.get()

    def matrix(self, layer: str) -> tuple[int, int]:
        """The shape (out, in) of the weight as a matrix; (out, in * kh * kw) for a convolution."""
        out, *rest = self.layers[layer]
        return out, math.prod(rest)

    def weight(self, layer: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """The weight as a matrix, float32, on ``device``. Raises LoraxError if it is not finite."""
        weight = self.unconverted(layer)
        with reading(self.path, "a base checkpoint"):
            return weight.to(device).float()

    def unconverted(self, layer: str) -> torch.Tensor:
        """The weight as a matrix, in the dtype in which it is stored. Raises LoraxError if it is not finite."""
        weight = self.stored(layer).flatten(1)
        self.check_finite(layer, weight)
        return weight

    def check_finite(self, layer: str, values: torch.Tensor) -> None:
        """Raise LoraxError if ``values``, some of the layer's, hold NaN or infinite ones."""
        if not is_finite(values):
            part = self._where[layer]
            raise LoraxError(
                f"{part.file.path}: {part.key} holds NaN or infinite values. The checkpoint is damaged; use another copy."
            )


def open_checkpoint(path: Path | str, sha256: str | None = None) -> Checkpoint:
    """Open a base by its header. ``sha256``: that of the file's content, if it is known.

    A base is a ``.safetensors``, ``.ckpt`` or ``.pt`` file in LDM layout, such a file with a UNet alone in either layout, or a
    folder that diffusers wrote. Raises LoraxError if it is not a base, UnsupportedFamily if it is of a family not supported.
    """
    with reading(path, "a base checkpoint"):
        return _open(Path(path), sha256)


def _open(path: Path, sha256: str | None) -> Checkpoint:
    if path.suffix.lower() == ".gguf":
        raise _unsupported(path, "a GGUF file", "Its weights are quantized: use the original fp16 or fp32 checkpoint.")
    path = path.absolute() if path.is_dir() else path  # ``.`` has no name
    layout = layout_of(path)
    family = _supported(path, layout)
    is_ldm = layout.naming == "ldm"
    names = (UNetNames.from_ldm if is_ldm else UNetNames.from_diffusers)(layout.unet)
    known = names.has_ldm if is_ldm else names.has_diffusers
    unet = {key if is_ldm else names.to_ldm(key): part for key, part in layout.unet.items() if known(key)}
    where: dict[str, Part] = {}
    vectors: dict[str, int] = {}
    for component in family.components:
        for parameter, part in (unet if component.name == "unet" else layout.text(component)).items():
            if is_layer(parameter, part.shape):
                where[f"{component.name}.{parameter.removesuffix('.weight')}"] = part
            elif len(part.shape) == 1:
                vectors[f"{component.name}.{parameter}"] = part.shape[0]
    return Checkpoint(path, family, names, where, vectors, sha256)


def _supported(path: Path, layout: Layout) -> Family:
    if how := unsupported.quantization(layout.unet):
        raise _unsupported(path, f"a base quantized to {how}", "Use the original fp16 or fp32 checkpoint.")
    if title := unsupported.architecture(layout.unet):
        raise _unsupported(path, title)
    family = families.detect({key: part.shape for key, part in layout.unet.items()})
    if layout.naming is None:
        raise LoraxError(f"{path}: not a Stable Diffusion checkpoint; expected keys like {families.UNET.checkpoint}{LDM_SIGN}.")
    if family is None:
        raise _unsupported(path, "an unknown kind of UNet")
    return family


def _unsupported(path: Path, title: str, advice: str = "") -> UnsupportedFamily:
    known = ", ".join(family.title for family in families.FAMILIES)
    return UnsupportedFamily(
        " ".join(filter(None, [f"{path}: {title}, which is not supported.", advice, f"Supported: {known}."])), title
    )
