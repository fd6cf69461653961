"""Opens base models as lazy mappings from layers to weights. They are never loaded whole."""

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from lorax.checkpoint import families, unsupported
from lorax.checkpoint.families import Family
from lorax.checkpoint.identity import Identity
from lorax.checkpoint.layer_names import UNetNames
from lorax.checkpoint.layouts import LDM_SIGN, Layout, is_layer, layout_of
from lorax.checkpoint.names import AdapterNames
from lorax.checkpoint.prediction import ZERO_SNR, prediction_of, told_by
from lorax.errors import LoraxError, UnsupportedFamily, reading
from lorax.files import Part, TensorFile, is_finite, title_of


class Checkpoint:
    """A base: its family, its layers and, on demand, their weights.

    ``layers``: stored shapes of the linear layers and convolutions in UNet and text encoders, by layer. ``vectors``: sizes of
    norms and biases, by parameter, such as ``unet.out.0.weight``; not those of an encoder under OpenCLIP's names. ``names``:
    adapters' names of the layers. ``identity``: the base's hashes.
    """

    def __init__(
        self,
        path: Path,
        family: Family,
        names: UNetNames,
        parts: Mapping[str, Part],
        vectors: Mapping[str, int] | None = None,
        sha256: str | None = None,
    ) -> None:
        self.path, self.family, self.unet_names, self._parts = path, family, names, parts
        self.layers = {layer: part.shape for layer, part in parts.items()}
        self.vectors = vectors or {}
        self.names = AdapterNames(family, names, self.layers, self.vectors)
        self.identity = Identity(path, parts, sha256)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files and folders that are read of the base, as far as they exist. A folder may hold links to files elsewhere."""
        return self.path, told_by(self.path), *{part.file.path: None for part in self._parts.values()}

    @property
    def title(self) -> str:
        """The base's name for users."""
        return title_of(self.path)

    @cached_property
    def prediction(self) -> str | None:
        """The UNet's prediction type, one of those in ``lorax.checkpoint.prediction``; None if unknown."""
        return prediction_of(self.path, self.unet_file)

    @property
    def has_zero_snr(self) -> bool:
        """Whether the file has the mark of a training whose schedule ends in pure noise."""
        return ZERO_SNR in self.unet_file.shapes

    @property
    def unet_file(self) -> TensorFile:
        """A file that holds at least a part of the UNet."""
        return next(part.file for layer, part in self._parts.items() if layer.startswith("unet."))

    def stored(self, layer: str) -> torch.Tensor:
        """Return the weight in its own shape and dtype, mapped from the file. Raises LoraxError if it is not floating point."""
        part = self._parts[layer]
        with reading(f"{part.file.path}: {part.key}", "a weight of a base checkpoint"):
            return part.get()

    def matrix(self, layer: str) -> tuple[int, int]:
        """Return the shape (out, in) of the weight as a matrix; (out, in * kh * kw) for a convolution."""
        out, *rest = self.layers[layer]
        return out, math.prod(rest)

    def weight(self, layer: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the weight as a matrix, float32, on ``device``. Raises LoraxError if it is not finite."""
        weight = self.unconverted(layer)
        with reading(self.path, "a base checkpoint"):
            return weight.to(device).float()

    def unconverted(self, layer: str) -> torch.Tensor:
        """Return the weight as a matrix in its stored dtype. Raises LoraxError if it is not finite."""
        weight = self.stored(layer).flatten(1)
        self.check_finite(layer, weight)
        return weight

    def check_finite(self, layer: str, values: torch.Tensor) -> None:
        """Raise LoraxError if some ``values`` of the layer are NaN or infinite."""
        if not is_finite(values):
            part = self._parts[layer]
            raise LoraxError(
                f"{part.file.path}: {part.key} holds NaN or infinite values. The checkpoint is damaged; use another copy."
            )


def open_checkpoint(path: Path | str, sha256: str | None = None) -> Checkpoint:
    """Open a base by its header. ``sha256``: the hash of the file's content, if it is known.

    A base is a ``.safetensors``, ``.ckpt`` or ``.pt`` file in LDM layout, such a file with a UNet alone in either layout, or a
    diffusers folder. Raises LoraxError if it is not a base, and UnsupportedFamily if its family is not supported.
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
    has = names.has_ldm if is_ldm else names.has_diffusers
    unet = {key if is_ldm else names.to_ldm(key): part for key, part in layout.unet.items() if has(key)}
    components = {"unet": unet, **{component.name: layout.text(component) for component in family.text_encoders}}
    files = {part.file.path: part.file for part in layout.unet.values()}  # which may hold text encoders, too
    _check_unquantized(path, chain(*(file.shapes for file in files.values()), *components.values()))
    parts: dict[str, Part] = {}
    vectors: dict[str, int] = {}
    for name, parameters in components.items():
        for parameter, part in parameters.items():
            if is_layer(parameter, part.shape):
                parts[f"{name}.{parameter.removesuffix('.weight')}"] = part
            elif len(part.shape) == 1:
                vectors[f"{name}.{parameter}"] = part.shape[0]
    return Checkpoint(path, family, names, parts, vectors, sha256)


def _supported(path: Path, layout: Layout) -> Family:
    if title := unsupported.architecture(layout.unet):
        raise _unsupported(path, title)
    _check_unquantized(path, layout.unet)
    family = families.detect({key: part.shape for key, part in layout.unet.items()})
    if layout.naming is None:
        raise LoraxError(f"{path}: not a Stable Diffusion checkpoint; expected keys like {families.UNET.checkpoint}{LDM_SIGN}.")
    if family is None:
        raise _unsupported(path, "an unknown kind of UNet")
    return family


def _check_unquantized(path: Path, keys: Iterable[str]) -> None:
    if how := unsupported.quantization(keys):
        raise _unsupported(path, f"a base quantized to {how}", "Use the original fp16 or fp32 checkpoint.")


def _unsupported(path: Path, title: str, advice: str = "") -> UnsupportedFamily:
    supported = f"Supported: {', '.join(family.title for family in families.FAMILIES)}."
    return UnsupportedFamily(" ".join(filter(None, [f"{path}: {title}, which is not supported.", advice, supported])), title)
