"""A base model as a lazy mapping from layers to weights. It is never loaded whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch

from lorax.checkpoint import families, unsupported
from lorax.checkpoint.families import Family
from lorax.checkpoint.layer_names import TEXT_MODEL, UNetNames
from lorax.checkpoint.layouts import LDM_SIGN, Layout, is_layer, layout_of
from lorax.checkpoint.prediction import ZERO_SNR, prediction_of
from lorax.errors import LoraxError, UnsupportedFamily
from lorax.files.hashing import Hashes, hashes, legacy_hash
from lorax.files.tensors import Part, TensorFile, is_finite, title_of


class Checkpoint:
    """A base: its family, its layers (name -> shape, as stored) and, on demand, their weights.

    Only layers that an adapter can touch are listed: linear and convolution weights of the UNet and the text encoders.
    ``vectors`` are the parameters of one dimension, norms and biases: ``unet.out.0.weight`` -> size. Those of an encoder that is
    stored as OpenCLIP names it are not listed. ``sha256``: of the file's content, where it is known.
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
        self.path, self.family, self.unet_names, self._where, self._known = path, family, names, where, sha256
        self.layers = {layer: part.shape for layer, part in where.items()}
        self.vectors = vectors or {}

    @property
    def title(self) -> str:
        """The base's name for users."""
        return title_of(self.path)

    @cached_property
    def prediction(self) -> str | None:
        """What the UNet predicts, as ``lorax.checkpoint.prediction`` has it; None where nothing tells."""
        return prediction_of(self.path, self.unet_file)

    @property
    def has_zero_snr(self) -> bool:
        """Whether the file is marked as trained with a schedule that ends in noise alone."""
        return ZERO_SNR in self.unet_file.shapes

    @property
    def unet_file(self) -> TensorFile:
        """A file that holds some of the UNet."""
        return next(part.file for layer, part in self._where.items() if layer.startswith("unet."))

    def stored(self, layer: str) -> torch.Tensor:
        """The weight in its own shape and dtype; nothing is copied until it is used. Raises LoraxError if it is no float."""
        return self._where[layer].get()

    def matrix(self, layer: str) -> tuple[int, int]:
        """The shape (out, in) of the weight as a matrix; of a convolution (out, in * kh * kw)."""
        out, *rest = self.layers[layer]
        return out, math.prod(rest)

    def weight(self, layer: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """W as a float32 matrix on ``device``. Raises LoraxError if it is not finite."""
        return self.unconverted(layer).to(device).float()

    def unconverted(self, layer: str) -> torch.Tensor:
        """W as a matrix in the dtype in which it is stored. Raises LoraxError if it is not finite."""
        weight = self.stored(layer).flatten(1)
        self.check_finite(layer, weight)
        return weight

    def check_finite(self, layer: str, values: torch.Tensor) -> None:
        """Raise LoraxError if ``values``, which are some of the layer's, hold NaN or infinite ones."""
        if not is_finite(values):
            part = self._where[layer]
            raise LoraxError(
                f"{part.file.path}: {part.key} holds NaN or infinite values. The checkpoint is damaged; use another copy."
            )

    def fingerprint(self, layers: Iterable[str]) -> str:
        """Hash of what these layers hold: the same with another VAE, in another layout and in half precision."""
        content = hashlib.sha256()
        for layer in sorted(layers):
            weight = self.stored(layer).flatten(1).half()
            content.update(f"{layer} {tuple(weight.shape)}".encode())
            content.update(weight.numpy().tobytes())
        return content.hexdigest()

    @property
    def sha256(self) -> str:
        """Hash of the file's content; of a folder, the hash over its weight files in order."""
        return self._hashes.sha256

    def find_hashes(self, progress: Callable[[int, int, str], None]) -> None:
        """Find the file's hashes now, where that takes a reading of the whole base.

        ``progress`` hears how many of how many mebibytes are read, and what is done in words, and may raise to stop.
        """
        if "_hashes" not in vars(self) and not self._known:
            total = max(1, sum(file.stat().st_size for file in self._files) >> 20)

            def told(done: int) -> None:
                progress(done, total, f"hashing {self.title}")

            self._hashes = hashes(*self._files, read=told)

    @property
    def legacy_hash(self) -> str:
        """The WebUI's old 8-digit hash of the file; a folder has none, and an empty one is returned."""
        return self._hashes.legacy if self.path.is_file() else ""

    @cached_property
    def _hashes(self) -> Hashes:
        if self._known and self.path.is_file():
            return Hashes(self._known, legacy_hash(self.path))
        return hashes(*self._files)

    @property
    def _files(self) -> list[Path]:
        return list(dict.fromkeys(part.file.path for part in self._where.values()))

    @cached_property
    def names(self) -> dict[str, str]:
        """Every name that any adapter format gives to a layer of this base -> the layer."""
        return self._spelled(self.layers)

    @cached_property
    def norms(self) -> dict[str, str]:
        """The same for the layers that have no weight of two dimensions or more, but vectors."""
        return self._spelled({layer for parameter in self.vectors if (layer := parameter.rpartition(".")[0]) not in self.layers})

    def _spelled(self, layers: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for component in self.family.components:
            for layer in layers:
                head, _, path = layer.partition(".")
                if head != component.name:
                    continue
                other = self.unet_names.to_diffusers(path) if head == "unet" else path.removeprefix(TEXT_MODEL)
                for one in (path, other):
                    spelled = [prefix + one.replace(".", "_") for prefix in component.kohya]
                    spelled += [prefix + one for prefix in (*component.peft, *component.prefixes, "")]
                    for name in spelled:
                        found.setdefault(name, layer)
        return found

    def kohya_name(self, layer: str) -> str:
        """The name under which an adapter for this base stores the layer, such that every host finds it.

        That is kohya's diffusers spelling where the UNet has SD 1.x's standard blocks, and the LDM spelling where it has not or
        where kohya uses it for the family.
        """
        component = next(c for c in self.family.components if layer.startswith(f"{c.name}."))
        path = layer.removeprefix(f"{component.name}.")
        if component.name == "unet" and not self.family.ldm_names and self.unet_names.is_standard():
            path = self.unet_names.to_diffusers(path)
        return component.kohya[0] + path.replace(".", "_")


def open_checkpoint(path: Path | str, sha256: str | None = None) -> Checkpoint:
    """Open a base by its header. ``sha256``: of the file's content, where it is known.

    That is a ``.safetensors``, ``.ckpt`` or ``.pt`` file in LDM layout, a UNet alone in such a file in either layout, or a folder
    that diffusers wrote. Raises LoraxError when it is not a base, UnsupportedFamily when it is one that is not supported.
    """
    path = Path(path)
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
