"""Opens an adapter file: groups its keys by layer, checks them by shape, decodes single layers on demand."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path

import torch

from lorax import families
from lorax.adapter import LowRank
from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError, NotAnAdapter
from lorax.families import Family
from lorax.formats import dora, full, glora, ia3, loha, lokr, lora, loraxfile, oft, refusals
from lorax.formats.configuration import LARGEST, Configuration, parse
from lorax.formats.parts import ALPHA, Format, Layer
from lorax.tensors import TensorFile, open_tensors

FORMATS: tuple[Format, ...] = (lora, loha, lokr, full, glora, oft, ia3)
OWNED = {f".{ALPHA}": ALPHA} | dora.SUFFIXES | {end: part for format in FORMATS for end, part in format.SUFFIXES.items()}
SUFFIXES = dict(sorted(OWNED.items(), key=lambda item: -len(item[0])))  # ``.b1.weight`` before ``.weight``
EMBEDDING = "bundle_emb."  # begins the keys of textual inversion embeddings, which A1111 loads from an adapter's file
PEFT_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin")


class AdapterFile:
    """An adapter on disk. ``parts``: layer name as spelled in the file -> part -> key. Nothing is read before ``delta``.

    ``path`` is the file with the tensors; ``given`` is what the user named, the same file or the PEFT folder around it.
    ``header`` is what a LoRA-X file says of itself, and None for other adapters.
    """

    def __init__(self, given: Path, file: TensorFile, configuration: Configuration) -> None:
        self.given, self.path, self._file, self._configuration = given, file.path, file, configuration
        self.metadata = file.metadata
        # Before the keys: those of a newer version are not known.
        self.header = loraxfile.read_header(file.path, file.metadata) if loraxfile.is_ours(file) else None
        self.parts: dict[str, dict[str, str]] = {}
        for key in file.shapes:
            if key.startswith(EMBEDDING):
                continue
            if (found := loraxfile.split(key) or _owned(key, file)) is None:
                raise _refusal(self.path, key, file.shapes)
            self.parts.setdefault(found[0], {})[found[1]] = key
        if base := refusals.base(self.parts):
            raise LoraxError(f"{self.path}: an adapter for {base}, which is not supported. {_supported()}")
        if not self.parts:
            raise NotAnAdapter(f"{self.path}: holds no layers, only embeddings; expected a LoRA.")
        self._formats = {name: self._format(name) for name in self.parts}

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

    def delta(self, name: str, base: Checkpoint | None = None) -> LowRank:
        """dW of the layer that the file spells ``name``, on ``base``'s weight where it depends on that (``is_on_base``)."""
        tensors = {part: self._file.get(key).float() for part, key in self.parts[name].items()}
        for part, tensor in tensors.items():
            if not (tensor.abs() <= LARGEST).all():  # NaN is not either
                raise LoraxError(
                    f"{self.path}: {name}: the {part} part holds NaN or infinite values, or some beyond {LARGEST:.0e}. "
                    "The file is damaged or training diverged."
                )

        format = self._formats[name]
        default = self._configuration.scale(name, format.rank(self._shapes(name)))
        layer = Layer(f"{self.path}: {name}", tensors, default, partial(self._weight, name, base))
        delta = format.decode(layer)
        return dora.decomposed(layer, delta) if self._has_lengths(name) else delta

    def shape(self, name: str) -> tuple[int | None, int | None]:
        return self._formats[name].shape(self._shapes(name))

    def is_low_rank(self, name: str) -> bool:
        """Whether the file's own factors bound the rank of the layer's delta. What other formats hold may be of any rank."""
        return self._formats[name] is lora and not self._has_lengths(name)

    def is_on_base(self, name: str) -> bool:
        """Whether the layer's delta depends on the weight that it was trained on."""
        return self._formats[name].ON_BASE or self._has_lengths(name)

    def layers_of(self, base: Checkpoint) -> dict[str, str | None]:
        """Name in the file -> layer of ``base``, or None where the base lacks it.

        Raises LoraxError when the adapter was made for another family or another width than the base's.
        """
        layers = {name: self._layer(name, base) for name in self.parts}
        family = self.family
        if (family is not None and family != base.family) or not any(layers.values()):
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
            shape = tuple(known or size for known, size in zip(self.shape(name), expected, strict=True))
            if shape != expected:
                raise LoraxError(
                    f"{self.path}: {name} changes a weight of shape {shape}, but in {base.path} it is {expected}. "
                    "Choose as source the base that the adapter was trained on."
                )
        return layers

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
        ranks = (format.rank(self._shapes(name)) for name, format in self._formats.items())
        return Counter(rank for rank in ranks if rank is not None)

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

    def _format(self, name: str) -> Format:
        """Of which format the layer is. Raises LoraxError when its parts do not fit together, or are of two formats."""
        where, shapes = f"{self.path}: {name}", self._shapes(name)
        found = [format for format in FORMATS if any(part in shapes for part in format.SUFFIXES.values())]
        if len(found) > 1:
            raise LoraxError(f"{where}: parts of {' and '.join(format.TITLE for format in found)}; expected those of one format.")
        if math.prod(shapes.get(ALPHA, ())) != 1:
            raise LoraxError(f"{where}: alpha has shape {shapes[ALPHA]}; expected one number.")
        format = found[0] if found else lora
        format.check(where, shapes)
        return format


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
    if any(key.startswith(families.UNET.checkpoint) and _owned(key, file) is None for key in file.shapes):
        raise LoraxError(f"{path}: a base checkpoint, not a LoRA. Give it as --source or --target.")
    if not file.shapes:
        raise NotAnAdapter(f"{path}: holds no tensors; expected a LoRA.")
    if "lora_adapter_metadata" in file.metadata:  # diffusers 0.34 and newer
        settings = parse(path, file.metadata["lora_adapter_metadata"])
    return AdapterFile(given, file, Configuration(path, settings))


def split(key: str) -> tuple[str, str] | None:
    """(layer name, part) of a key that one of the formats owns, or None. An old name is given as today's."""
    key = lora.today(key)
    return next(((key[: -len(end)], part) for end, part in SUFFIXES.items() if key.endswith(end)), None)


def _owned(key: str, file: TensorFile) -> tuple[str, str] | None:
    """The same for a key among others: ``.weight`` ends the keys of most files, and is (IA)^3's beside its ``on_input`` only."""
    found = split(key)
    if found and found[1] == ia3.WEIGHT and f"{found[0]}.{ia3.ON_INPUT}" not in file.shapes:
        return None
    return found


def _refusal(path: Path, unknown: str, keys: Iterable[str]) -> LoraxError:
    """Why the file with the ``unknown`` key is refused. Any of its keys may be the one that tells what it is."""
    if unknown.endswith(f".{ia3.WEIGHT}") and any(key.endswith(f".{ia3.ON_INPUT}") for key in keys):
        return LoraxError(f"{path}: {unknown.removesuffix(f'.{ia3.WEIGHT}')}: {ia3.ON_INPUT} is missing. The file is incomplete.")
    if kind := refusals.kind(keys):
        return LoraxError(f"{path}: {kind}, which is not supported. {_supported()}")
    if other := refusals.other(keys):
        return NotAnAdapter(f"{path}: {other}, and no LoRA.")
    return NotAnAdapter(f"{path}: unexpected key {unknown}; expected a LoRA with keys like lora_unet_..._to_q.lora_down.weight.")


def _supported() -> str:
    bases = ", ".join(family.title for family in families.FAMILIES if family.components)
    return f"Supported are {', '.join(format.TITLE for format in FORMATS)} and DoRA, for {bases}."
