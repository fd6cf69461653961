"""An adapter file whose layers are decoded one at a time."""

import math
import re
from functools import cached_property, partial
from pathlib import Path

import torch

from lorax.checkpoint import Checkpoint, Family, families
from lorax.errors import LoraxError, reading
from lorax.files import TensorFile, hashes, is_finite, title_of
from lorax.formats import dora, loraxfile, sidecars, stored
from lorax.formats.configuration import LARGEST, Configuration
from lorax.formats.keys import EMBEDDING
from lorax.formats.parts import Device, Layer
from lorax.low_rank import LowRank


class AdapterFile:
    """An adapter on disk. The tensors of a layer are read when needed. Raises LoraxError if the file is damaged or unsupported.

    ``given``: the user's path, which may be a PEFT folder. ``path``: the file with the tensors. ``header``: that of a LoRA-X
    file; None for other adapters. ``layers``: stored layers by name in the file. ``vectors``: changes of norms and biases.
    ``sha256``: that of the file with the tensors, if it is known.
    """

    def __init__(self, given: Path, file: TensorFile, configuration: Configuration, sha256: str | None = None) -> None:
        self.given, self.path, self.metadata, self._sha256 = given, file.path, file.metadata, sha256
        self._file, self._configuration = file, configuration
        # The header is read first, since a newer version may have unknown keys.
        self.header = loraxfile.read_header(file.path, file.metadata) if loraxfile.is_ours(file) else None
        self.layers, self.vectors = stored.contents(file)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read of the adapter, as far as there are any: its own, PEFT's configuration and those beside it."""
        return self.path, self.path.with_name("adapter_config.json"), *sidecars.beside(self.path)

    @property
    def title(self) -> str:
        """The adapter's name for users: that of the file or the PEFT folder."""
        return title_of(self.given)

    @cached_property
    def sha256(self) -> str:
        """sha256 of the file with the tensors."""
        if self._sha256:
            return self._sha256
        with reading(self.path, "an adapter"):
            return hashes(self.path).sha256

    @cached_property
    def family(self) -> Family | None:
        """The family that the adapter was made for, by its header or its layers; None if unknown."""
        if self.header is not None:
            return self.header.family
        shapes = {name: layer.like_weight for name, layer in self.layers.items() if name.endswith(families.PROJECTIONS)}
        return families.detect_adapter(self.layers, {name: shape for name, shape in shapes.items() if shape is not None})

    @property
    def in_subspace(self) -> bool:
        """Whether it was trained in the source's leading subspaces, whose ranks are those of its layers."""
        return self.header is not None and bool(self.header.core)

    @property
    def embeddings(self) -> list[str]:
        """Names of the bundled textual inversion embeddings."""
        keys = (key for key in self._file.shapes if key.startswith(EMBEDDING))
        return list(dict.fromkeys(key.removeprefix(EMBEDDING).partition(".")[0] for key in keys))

    def bundled(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the bundled embeddings by key, as stored, and each of its own, whatever a pickle's share."""
        with reading(self.path, "an adapter"):
            keys = [key for key in self._file.shapes if key.startswith(EMBEDDING)]
            return {key: self._real(key).clone(memory_format=torch.contiguous_format) for key in keys}

    def _real(self, key: str) -> torch.Tensor:
        """Return the tensor as stored. Raises LoraxError if it is complex: only a part of it could be used or written."""
        tensor = self._file.get(key)
        if tensor.is_complex():
            raise LoraxError(f"{self.path}: {key} holds complex numbers ({tensor.dtype}); expected real ones. Export it again.")
        return tensor

    def _float(self, key: str) -> torch.Tensor:
        """Return the tensor in float32. Raises LoraxError for whole numbers, which a scale of their own would belong to."""
        tensor = self._real(key)
        if not tensor.is_floating_point() and tensor.numel() > 1:  # alpha may be one
            raise LoraxError(
                f"{self.path}: {key} holds whole numbers ({tensor.dtype}), as a quantized file does; expected floating point. "
                "Export it without quantization."
            )
        return tensor.float()

    def vector(self, key: str) -> torch.Tensor:
        """Return the change of a norm or a bias, float32 (size,). Raises LoraxError if it cannot be read as such."""
        with reading(self.path, "an adapter"):
            tensor = self._float(key)
            _check_values(f"{self.path}: {key}", tensor)
            return tensor

    def read(self, name: str, base: Checkpoint | None = None, device: Device = "cpu") -> Layer:
        """Read a layer by its name in the file; see ``delta``.

        Raises LoraxError if a value is complex, not finite or too large.
        """
        with reading(f"{self.path}: {name}", "a layer of an adapter"):
            return self._read(name, base, device)

    def _read(self, name: str, base: Checkpoint | None, device: Device) -> Layer:
        where, layer = f"{self.path}: {name}", self.layers[name]
        tensors = {part: self._float(key) for part, key in layer.keys.items()}
        for part, tensor in tensors.items():
            _check_values(f"{where}: the {part} part", tensor)
        on_base = _layer_of(name, base) if base else None
        return Layer(
            where,
            tensors,
            self._configuration.scale(name, layer.rank),
            self.header.named_source if self.header else "",
            partial(_weight, base, on_base) if base and on_base else None,
            device,
        )

    def delta(self, name: str, base: Checkpoint | None = None, device: Device = "cpu") -> LowRank:
        """Return dW, float32 on the CPU, of the layer with this name in the file.

        Some formats need the source, ``base``; the small form of LoRA-X decomposes its weight on ``device``. Raises LoraxError as
        ``read`` does, if the format needs the source and ``base`` is another one, and if dW is not finite.
        """
        layer, stored_layer = self.read(name, base, device), self.layers[name]
        with reading(layer.where, "a layer of an adapter"):
            delta = stored_layer.format.decode(layer)
            delta = dora.decomposed(layer, delta) if stored_layer.has_magnitudes else delta
        if not (is_finite(delta.up) and is_finite(delta.down) and math.isfinite(delta.scale)):
            raise LoraxError(f"{layer.where}: its parts stand for infinite values. The file is damaged or training diverged.")
        return delta

    def deltas_of(self, base: Checkpoint) -> dict[str, LowRank]:
        """Return the deltas by layer of ``base``. Raises LoraxError as ``layers_of`` and ``delta`` do."""
        return {layer: self.delta(name, base) for name, layer in self.layers_of(base).items() if layer is not None}

    def layers_of(self, base: Checkpoint) -> dict[str, str | None]:
        """Return the layers of ``base``, None if it lacks one, by names in the file.

        Raises LoraxError if the adapter was made for another family or for other widths, or names a layer twice.
        """
        found = {name: _layer_of(name, base) for name in self.layers}
        family = self.family
        other = family is not None and family != base.family and base.family.has_adapters
        if other or not any(found.values()):
            made = family.title if family else "another kind of base"
            raise LoraxError(
                f"{self.path}: made for {made}, but {base.path} is {base.family.title}. "
                "Choose as source the base that it was trained on."
            )
        spellings: dict[str, str] = {}
        for name, layer in found.items():
            if layer is None:
                continue
            if (twin := spellings.setdefault(layer, name)) != name:
                raise LoraxError(f"{self.path}: {twin} and {name} are the same layer of {base.path}. Remove one of them.")
            weight, stored_layer = base.matrix(layer), self.layers[name]
            if (changed := stored_layer.format.extent(stored_layer.shapes).misfit(weight)) is not None:
                raise LoraxError(
                    f"{self.path}: {name} changes {changed}, but in {base.path} it is {weight}. "
                    "Choose as source the base that the adapter was trained on."
                )
        return found

    def fitting_layer(self, name: str, base: Checkpoint) -> str | None:
        """Return the layer of ``base`` that a host changes by this name in the file; None if it has none of these sizes."""
        layer, stored_layer = _layer_of(name, base), self.layers[name]
        if layer is None or stored_layer.format.extent(stored_layer.shapes).misfit(base.matrix(layer)) is not None:
            return None
        return layer


def _check_values(what: str, tensor: torch.Tensor) -> None:
    """Raise LoraxError if a value is not finite or too large."""
    low, high = tensor.aminmax()
    if not (low >= -LARGEST and high <= LARGEST):  # both are NaN if a value is
        raise LoraxError(
            f"{what} holds NaN or infinite values, or some beyond {LARGEST:.0e}. The file is damaged or training diverged."
        )


def _layer_of(name: str, base: Checkpoint) -> str | None:
    return base.names.get(re.sub(r"^oft_", "lora_", name))  # kohya's OFT has its own prefix


def _weight(base: Checkpoint, layer: str, device: Device) -> torch.Tensor:
    return base.weight(layer, device).reshape(base.layers[layer])
