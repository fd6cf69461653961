"""A base model as a lazy mapping from layers to weights. It is never loaded whole."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch

from lorax import families, openclip
from lorax.errors import LoraxError, UnsupportedFamily
from lorax.families import Component, Family
from lorax.layers import TEXT_MODEL, UNetNames, text_path
from lorax.tensors import Hashes, Part, TensorFile, hashes, open_tensors

WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
    "model.fp16.safetensors",
    "pytorch_model.bin",
)


class Checkpoint:
    """A base: its family, its layers (name -> shape, as stored) and, on demand, their weights.

    Only layers that an adapter can touch are listed: linear and convolution weights of the UNet and the text encoders.
    """

    def __init__(self, path: Path, family: Family, names: UNetNames, where: Mapping[str, Part]) -> None:
        self.path, self.family, self.unet_names, self._where = path, family, names, where
        self.layers = {layer: part.shape for layer, part in where.items()}

    @property
    def title(self) -> str:
        """The base's name as a user would say it; a folder's may hold dots."""
        return self.path.name if self.path.is_dir() else self.path.stem

    def stored(self, layer: str) -> torch.Tensor:
        """The weight in its own shape and dtype; nothing is copied until it is used. Raises LoraxError if it is no float."""
        return self._where[layer].get()

    def matrix(self, layer: str) -> tuple[int, int]:
        """The shape (out, in) of the weight as a matrix; of a convolution (out, in * kh * kw)."""
        out, *rest = self.layers[layer]
        return out, math.prod(rest)

    def weight(self, layer: str) -> torch.Tensor:
        """W as a matrix, in the dtype in which it is stored. Raises LoraxError if it is not finite."""
        weight = self.stored(layer).flatten(1)
        self.check_finite(layer, weight)
        return weight

    def check_finite(self, layer: str, values: torch.Tensor) -> None:
        """Raise LoraxError if ``values``, which are some of the layer's, hold NaN or infinite ones."""
        values = values if values.element_size() > 1 else values.float()
        if values.numel() and not all(torch.isfinite(end) for end in torch.aminmax(values)):  # NaN counts as either end
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

    @property
    def legacy_hash(self) -> str:
        """The WebUI's old 8-digit hash of the file; a folder has none, and an empty one is returned."""
        return self._hashes.legacy if self.path.is_file() else ""

    @cached_property
    def _hashes(self) -> Hashes:
        return hashes(*dict.fromkeys(part.file.path for part in self._where.values()))

    @cached_property
    def names(self) -> dict[str, str]:
        """Every name that any adapter format gives to a layer of this base -> the layer."""
        found: dict[str, str] = {}
        for component in self.family.components:
            for layer in self.layers:
                head, _, path = layer.partition(".")
                if head != component.name:
                    continue
                other = self.unet_names.to_diffusers(path) if head == "unet" else path.removeprefix(TEXT_MODEL)
                for one in (path, other):
                    spelled = [prefix + one.replace(".", "_") for prefix in component.kohya]
                    spelled += [prefix + one for prefix in (*component.peft, component.checkpoint, "")]
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


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a base by its header: a ``.safetensors``, ``.ckpt`` or ``.pt`` file in LDM layout, or a diffusers folder.

    Raises LoraxError when it is not a base, UnsupportedFamily when it is a base of a family that is not supported.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path.absolute())  # ``.`` has no name
    file = open_tensors(path)
    prefix = families.UNET.checkpoint
    unet = {key.removeprefix(prefix): shape for key, shape in file.shapes.items() if key.startswith(prefix)}
    if not unet:
        what = (
            "an adapter" if any("lora" in key or ".alpha" in key for key in file.shapes) else "not a Stable Diffusion checkpoint"
        )
        raise LoraxError(f"{path}: {what}; expected a base checkpoint with keys like {prefix}input_blocks.0.0.weight.")
    family, names = _supported(path, unet), UNetNames.from_ldm(unet)
    where: dict[str, Part] = {}
    for component in family.components:
        if component.open_clip:
            parts = openclip.layers(file, component.checkpoint)
            where |= {f"{component.name}.{inside}": part for inside, part in parts.items()}
            continue
        for key, shape in file.shapes.items():
            if key.startswith(component.checkpoint) and _is_layer(key, shape):
                inside = key[len(component.checkpoint) : -len(".weight")]
                if component.name != "unet":
                    where[f"{component.name}.{text_path(inside)}"] = Part(file, key)
                elif names.has_ldm(inside):
                    where[f"{component.name}.{inside}"] = Part(file, key)
    return Checkpoint(path, family, names, where)


def _open_folder(path: Path) -> Checkpoint:
    unet_file = _weights_in(path / families.UNET.folder)
    if unet_file is None:
        raise LoraxError(f"{path}: not a diffusers folder; expected {families.UNET.folder}/{WEIGHT_FILES[0]} in it.")
    family, names = _supported(path, unet_file.shapes), UNetNames.from_diffusers(unet_file.shapes)
    where = {}
    for component in family.components:
        if (file := _weights_in(path / component.folder)) is None:
            continue
        for key, shape in file.shapes.items():
            if _is_layer(key, shape) and (component.name != "unet" or names.has_diffusers(key)):
                where[f"{component.name}.{_ldm_path(component, names, key)}"] = Part(file, key)
    return Checkpoint(path, family, names, where)


def _ldm_path(component: Component, names: UNetNames, key: str) -> str:
    path = key.removesuffix(".weight")
    return names.to_ldm(path) if component.name == "unet" else text_path(path)


def _weights_in(folder: Path) -> TensorFile | None:
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    return open_tensors(found) if found else None


def _supported(path: Path, unet: Mapping[str, tuple[int, ...]]) -> Family:
    family = families.detect(unet)
    if family is None or not family.components:
        title = family.title if family else "an unknown kind of UNet"
        known = ", ".join(f.title for f in families.FAMILIES if f.components)
        raise UnsupportedFamily(f"{path}: {title}, which is not supported yet. Supported: {known}.", title)
    return family


def _is_layer(key: str, shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 4) and key.endswith(".weight") and not re.search(r"(token|position)_embedding", key)
