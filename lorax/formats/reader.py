"""Opens an adapter file: groups its keys by layer, checks them by shape, decodes single layers on demand."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cached_property, partial
from pathlib import Path

import torch

from lorax.checkpoint import families
from lorax.checkpoint.checkpoint import Checkpoint
from lorax.checkpoint.families import Family
from lorax.errors import LoraxError, NotAnAdapter
from lorax.files.tensors import TensorFile, open_tensors
from lorax.formats import dora, full, keys, lora, loraxfile, oft, refusals, small
from lorax.formats.configuration import LARGEST, Configuration, parse
from lorax.formats.parts import Layer
from lorax.low_rank import LowRank

EMBEDDING = "bundle_emb."  # begins the keys of textual inversion embeddings, which A1111 loads from an adapter's file
PEFT_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin")


class AdapterFile:
    """An adapter on disk. ``parts``: layer name as spelled in the file -> part -> key. Nothing is read before ``delta``.

    ``path`` is the file with the tensors; ``given`` is what the user named, the same file or the PEFT folder around it.
    ``header`` is what a LoRA-X file says of itself, and None for other adapters. ``vectors``: layer name -> ``weight`` or
    ``bias`` -> key, of what is added to norms and biases.
    """

    def __init__(self, given: Path, file: TensorFile, configuration: Configuration) -> None:
        self.given, self.path, self._file, self._configuration = given, file.path, file, configuration
        self.metadata = file.metadata
        # Before the keys: those of a newer version are not known.
        self.header = loraxfile.read_header(file.path, file.metadata) if loraxfile.is_ours(file) else None
        self.parts: dict[str, dict[str, str]] = {}
        self.vectors: dict[str, dict[str, str]] = {}
        for key in file.shapes:
            if key.startswith(EMBEDDING):
                continue
            if vector := keys.vector(key):
                self._check_vector(key)
                self.vectors.setdefault(vector[0], {})[vector[1]] = key
                continue
            if (found := loraxfile.split(key) or keys.owned(key, file)) is None:
                raise refusals.of_key(self.path, key, file.shapes)
            self.parts.setdefault(found[0], {})[found[1]] = key
        refusals.check_base(self.path, self.parts)
        if not self.parts:
            raise NotAnAdapter(f"{self.path}: holds no layers, only embeddings, norms or biases; expected a LoRA.")
        self._formats = {
            name: keys.format_of(f"{self.path}: {name}", self._shapes(name)) for name in self.parts if not self._is_small(name)
        }
        for name in self.parts.keys() - self._formats.keys():
            small.check(f"{self.path}: {name}", self._shapes(name))

    @property
    def title(self) -> str:
        """The adapter's name as a user would say it: the file's or the PEFT folder's."""
        return self.given.name if self.given.is_dir() else self.given.stem

    @property
    def embeddings(self) -> list[str]:
        """Names of the textual inversion embeddings that the file brings along."""
        return list(dict.fromkeys(key.removeprefix(EMBEDDING).partition(".")[0] for key in self._bundled))

    def bundled(self) -> dict[str, torch.Tensor]:
        """Their tensors under their keys, as stored."""
        return {key: self._file.get(key) for key in self._bundled}

    @property
    def _bundled(self) -> list[str]:
        return [key for key in self._file.shapes if key.startswith(EMBEDDING)]

    def delta(self, name: str, base: Checkpoint | None = None, device: torch.device | str = "cpu") -> LowRank:
        """dW of the layer that the file spells ``name``, on the CPU; on ``base``'s weight where it depends on that.

        A LoRA-X file in its small form needs ``base``, its source, which is decomposed on ``device``. Raises LoraxError when it
        is not the source.
        """
        where = f"{self.path}: {name}"
        if self._is_small(name):
            assert self.header is not None  # read when a file has such parts
            if base is None or name not in base.names:
                raise LoraxError(
                    f"{where}: in the small form, which is rebuilt from its source. It needs {self.header.named_source}."
                )
            W = base.weight(base.names[name], device)
            return small.decode(where, self._file.get, self.parts[name], W, self.header.named_source)
        tensors = {part: self._file.get(key).float() for part, key in self.parts[name].items()}
        for part, tensor in tensors.items():
            low, high = tensor.aminmax()
            if not (low >= -LARGEST and high <= LARGEST):  # NaN is both ends
                raise LoraxError(
                    f"{where}: the {part} part holds NaN or infinite values, or some beyond {LARGEST:.0e}. "
                    "The file is damaged or training diverged."
                )
        format = self._formats[name]
        default = self._configuration.scale(name, format.rank(self._shapes(name)))
        layer = Layer(where, tensors, default, partial(self._weight, name, base))
        delta = format.decode(layer)
        return dora.decomposed(layer, delta) if self._has_lengths(name) else delta

    def core(self, name: str, P: torch.Tensor) -> torch.Tensor | None:
        """dS (r,) of a layer in the small form, for a basis with these probes; None of a layer that holds factors."""
        if not self._is_small(name):
            return None
        assert self.header is not None
        return small.read(f"{self.path}: {name}", self._file.get, self.parts[name], P, self.header.named_source)

    @property
    def needs_source(self) -> bool:
        """Whether there is nothing to apply without the source checkpoint, from which the factors are rebuilt."""
        return any(self._is_small(name) for name in self.parts)

    @property
    def in_subspace(self) -> bool:
        """Whether it was trained inside the source's leading subspaces, each layer's of the layer's rank."""
        return self.header is not None and bool(self.header.core)

    def _is_small(self, name: str) -> bool:
        return small.CORE in self.parts[name] or small.PROBE in self.parts[name]

    def vector(self, key: str) -> torch.Tensor:
        """What is added to a norm or a bias, float32."""
        return self._file.get(key).float()

    def length(self, key: str) -> int:
        return self._file.shapes[key][0]

    def _check_vector(self, key: str) -> None:
        if len(self._file.shapes[key]) != 1:
            raise LoraxError(f"{self.path}: {key} has shape {self._file.shapes[key]}; expected one dimension.")

    def is_whole(self, name: str) -> bool:
        """Whether the file holds the layer's difference itself."""
        return self._formats.get(name) is full

    def is_low_rank(self, name: str) -> bool:
        """Whether the file's own factors bound the rank of the layer's delta. What other formats hold may be of any rank."""
        return self._is_small(name) or (self._formats[name] is lora and not self._has_lengths(name))

    def is_on_base(self, name: str) -> bool:
        """Whether the layer's delta depends on the weight that it was trained on."""
        return self._is_small(name) or self._formats[name].ON_BASE or self._has_lengths(name)

    def layers_of(self, base: Checkpoint) -> dict[str, str | None]:
        """Name in the file -> layer of ``base``, or None where the base lacks it.

        Raises LoraxError when the adapter was made for another family or another width than the base's.
        """
        layers = {name: self._layer(name, base) for name in self.parts}
        family = self.family
        other = family is not None and family != base.family and base.family.has_adapters
        if other or not any(layers.values()):
            made = family.title if family else "another kind of base"
            raise LoraxError(
                f"{self.path}: made for {made}, but {base.path} is {base.family.title}. "
                "Choose as source the base that it was trained on."
            )
        spellings: dict[str, str] = {}
        for name, layer in layers.items():
            if layer is None:
                continue
            if (twin := spellings.setdefault(layer, name)) != name:
                raise LoraxError(f"{self.path}: {twin} and {name} are the same layer of {base.path}. Remove one of them.")
            m, *rest = base.layers[layer]
            expected = (m, math.prod(rest))
            self._check_fits(name, expected, base)
        return layers

    def _check_fits(self, name: str, weight: tuple[int, int], base: Checkpoint) -> None:
        shapes = self._shapes(name)
        if self._is_small(name):
            fits, what = small.fits(shapes, weight), f"{self.rank(name)} singular values"
        else:
            shape = tuple(known or size for known, size in zip(self._formats[name].shape(shapes), weight, strict=True))
            fits, what = shape == weight, f"a weight of shape {shape}"
        if not fits:
            raise LoraxError(
                f"{self.path}: {name} changes {what}, but in {base.path} it is {weight}. "
                "Choose as source the base that the adapter was trained on."
            )

    def deltas_of(self, base: Checkpoint) -> dict[str, LowRank]:
        """Layer of ``base`` -> delta, for the layers that it has. Raises LoraxError as ``layers_of`` does."""
        return {layer: self.delta(name, base) for name, layer in self.layers_of(base).items() if layer is not None}

    @cached_property
    def family(self) -> Family | None:
        if self.header is not None:
            return self.header.family
        return families.detect_adapter(self.parts, self._weights)

    @cached_property
    def _weights(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of a part that has as many dimensions as the weight, for the layers that have such a part."""
        like = (lora.DOWN, full.DIFF)
        found = {name: next((parts[part] for part in like if part in parts), None) for name, parts in self.parts.items()}
        return {name: self._file.shapes[key] for name, key in found.items() if key is not None}

    @property
    def ranks(self) -> Counter[int]:
        """Rank -> number of layers that have it. Layers of a format without ranks are not counted."""
        return Counter(rank for rank in map(self.rank, self.parts) if rank is not None)

    def rank(self, name: str) -> int | None:
        """None of a layer of a format without ranks."""
        shapes = self._shapes(name)
        return shapes[small.CORE][0] if self._is_small(name) else self._formats[name].rank(shapes)

    @property
    def kind(self) -> str:
        """The format's title, or those of all formats that the layers are in, the commonest first."""
        if self.header is not None:
            return "LoRA-X"
        titles = Counter(self._title(name) for name in self.parts)
        return ", ".join(title for title, _ in titles.most_common())

    def _title(self, name: str) -> str:
        format, shapes = self._formats[name], self._shapes(name)
        title = "BOFT" if format is oft and oft.is_butterfly(shapes) else format.TITLE
        return f"{title} with DoRA" if self._has_lengths(name) else title

    def _layer(self, name: str, base: Checkpoint) -> str | None:
        """The layer that the file spells ``name``. kohya's OFT has a prefix of its own."""
        return base.names.get(re.sub(r"^oft_", "lora_", name))

    def _weight(self, name: str, base: Checkpoint | None) -> torch.Tensor:
        layer = self._layer(name, base) if base else None
        assert base is not None
        assert layer is not None
        return base.weight(layer).reshape(base.layers[layer])

    def _has_lengths(self, name: str) -> bool:
        return any(part in self.parts[name] for part in (dora.SCALE, dora.MAGNITUDE))

    def _shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        return {part: self._file.shapes[key] for part, key in self.parts[name].items()}


def open_adapter(path: Path | str) -> AdapterFile:
    """Open an adapter of any format in ``FORMATS``, a LoRA-X file or a PEFT folder.

    Raises NotAnAdapter when nothing in it looks like an adapter, LoraxError when it is of another kind or damaged.
    """
    given = path = Path(path)
    settings: dict = {}
    if given.is_dir():
        given = given.absolute()  # ``.`` has no name
        found = next((given / name for name in PEFT_FILES if (given / name).is_file()), None)
        if found is None:
            raise NotAnAdapter(f"{given}: no adapter in this folder; expected {PEFT_FILES[0]} or {PEFT_FILES[1]}.")
        config = given / "adapter_config.json"
        settings = parse(config, config.read_bytes()) if config.is_file() else {}
        path = found
    file = open_tensors(path)
    if any(key.startswith(families.UNET.checkpoint) and keys.owned(key, file) is None for key in file.shapes):
        raise LoraxError(f"{path}: a base checkpoint, not a LoRA. Give it as --source or --target.")
    if not file.shapes:
        raise NotAnAdapter(f"{path}: holds no tensors; expected a LoRA.")
    if "lora_adapter_metadata" in file.metadata:  # diffusers 0.34 and newer
        settings = parse(path, file.metadata["lora_adapter_metadata"])
    return AdapterFile(given, file, Configuration(path, settings))
