"""Opens an adapter file: groups its keys by layer, checks them by shape, decodes single layers on demand."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch

from lorax import families
from lorax.adapter import LowRank
from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError, NotAnAdapter
from lorax.families import Family
from lorax.formats import core, lora, loraxfile
from lorax.tensors import TensorFile, open_tensors

# Keys of formats that exist and are not read yet, so that the refusal can name them.
UNSUPPORTED = {
    r"\.hada_[wt][12]": "LoHa",
    r"\.lokr_[wt][12]": "LoKr",
    r"\.b?oft_": "OFT",
    r"\.on_input$|\.ia3_l$": "(IA)^3",
    r"\.dora_scale$|\.lora_magnitude_vector": "DoRA",
    r"\.[ab][12]\.weight$": "GLoRA",
    r"\.[wb]_norm$": "norm",  # LyCORIS' norm layers, alone or beside a LoRA
    r"\.diff(_b)?$": "full",  # whole weight differences
}
PEFT_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin")


class AdapterFile:
    """An adapter on disk. ``parts``: layer name as spelled in the file -> part -> key. Nothing is read before ``delta``.

    ``path`` is the file with the tensors; ``given`` is what the user named, the same file or the PEFT folder around it.
    ``header`` is what a LoRA-X file says of itself, and None for other adapters.
    """

    def __init__(self, given: Path, file: TensorFile, settings: dict) -> None:
        self.given, self.path, self._file, self._settings = given, file.path, file, settings
        self.metadata = file.metadata
        # Before the keys: those of a newer version are not known.
        self.header = loraxfile.read_header(file.path, file.metadata) if loraxfile.is_ours(file) else None
        self.parts: dict[str, dict[str, str]] = {}
        for key in file.shapes:
            if (found := loraxfile.split(key) or lora.split(key)) is None:
                raise _refusal(self.path, key, file.shapes)
            self.parts.setdefault(found[0], {})[found[1]] = key
        for name in self.parts:
            (core if self._is_small(name) else lora).check(f"{self.path}: {name}", self._shapes(name))

    @property
    def title(self) -> str:
        """The adapter's name as a user would say it: the file's or the PEFT folder's."""
        return self.given.name if self.given.is_dir() else self.given.stem

    def delta(self, name: str, base: Checkpoint | None = None, device: torch.device | str = "cpu") -> LowRank:
        """dW of the layer that the file spells ``name``, on the CPU.

        A LoRA-X file in its small form needs ``base``, its source, which is decomposed on ``device``. Raises LoraxError when it
        is not the source.
        """
        where, parts = f"{self.path}: {name}", self.parts[name]
        if not self._is_small(name):
            return lora.decode(where, self._file.get, parts, self._default_alpha(name))
        assert self.header is not None  # read when a file has such parts
        if base is None or name not in base.names:
            raise LoraxError(
                f"{where}: in the small form, which is rebuilt from its source. It needs {self.header.named_source}."
            )
        W = base.weight(base.names[name], device)
        return core.decode(where, self._file.get, parts, W, self.header.named_source)

    def core(self, name: str, P: torch.Tensor) -> torch.Tensor | None:
        """dS (r,) of a layer in the small form, for a basis with these probes; None of a layer that holds factors."""
        if not self._is_small(name):
            return None
        assert self.header is not None
        return core.read(f"{self.path}: {name}", self._file.get, self.parts[name], P, self.header.named_source)

    @property
    def needs_source(self) -> bool:
        """Whether there is nothing to apply without the source checkpoint, from which the factors are rebuilt."""
        return any(self._is_small(name) for name in self.parts)

    @property
    def in_subspace(self) -> bool:
        """Whether it was trained inside the source's leading subspaces, each layer's of the layer's rank."""
        return self.header is not None and bool(self.header.core)

    def _is_small(self, name: str) -> bool:
        return core.CORE in self.parts[name] or core.PROBE in self.parts[name]

    def layers_of(self, base: Checkpoint) -> dict[str, str | None]:
        """Name in the file -> layer of ``base``, or None where the base lacks it.

        Raises LoraxError when the adapter was made for another family or another width than the base's.
        """
        layers = {name: base.names.get(name) for name in self.parts}
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
            self._check_fits(name, expected, base)
        return layers

    def _check_fits(self, name: str, weight: tuple[int, int], base: Checkpoint) -> None:
        shapes = self._shapes(name)
        if core.fits(shapes, weight) if self._is_small(name) else lora.shape(shapes) == weight:
            return
        what = f"{self.rank(name)} singular values" if self._is_small(name) else f"a weight of shape {lora.shape(shapes)}"
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
        downs = {name: self._file.shapes[parts[lora.DOWN]] for name, parts in self.parts.items()}
        return families.detect_adapter(self.parts, downs)

    @property
    def ranks(self) -> Counter[int]:
        """Rank -> number of layers that have it."""
        return Counter(self.rank(name) for name in self.parts)

    def rank(self, name: str) -> int:
        shapes = self._shapes(name)
        return shapes[core.CORE][0] if self._is_small(name) else shapes[lora.UP][1]

    def _shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        return {part: self._file.shapes[key] for part, key in self.parts[name].items()}

    def _default_alpha(self, name: str) -> float | None:
        """Alpha from PEFT's configuration, which keeps it outside the tensors (and rsLoRA's scale alpha / sqrt(rank))."""
        head = name.partition(".")[0] + "."  # diffusers keeps one configuration per component: unet.lora_alpha, ...
        settings = self._settings | {k.removeprefix(head): v for k, v in self._settings.items() if k.startswith(head)}
        if "lora_alpha" not in settings:
            return None
        alpha = self._matching(settings.get("alpha_pattern") or {}, name, settings["lora_alpha"])
        rank = self._shapes(name)[lora.DOWN][0]
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= lora.LARGEST:
            raise LoraxError(
                f"{self.path}: {name}: its configuration gives the alpha {str(alpha)[:40]!r}; "
                f"expected a number up to {lora.LARGEST:.0e}."
            )
        return alpha * rank**0.5 if settings.get("use_rslora") else float(alpha)

    def _matching(self, patterns: object, name: str, default: object) -> object:
        """What a PEFT pattern (regular expression of the module's name or its end -> value) gives a layer; the first counts."""
        module = next((name.removeprefix(p) for p in families.PEFT_PREFIXES if name.startswith(p)), name)
        try:
            if isinstance(patterns, dict):
                return next((value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)), default)
        except re.error as error:
            raise LoraxError(f"{self.path}: its configuration's alpha_pattern: {error}; expected regular expressions.") from error
        raise LoraxError(f"{self.path}: its configuration's alpha_pattern is no table; expected patterns with their alphas.")


def open_adapter(path: Path | str) -> AdapterFile:
    """Open a LoRA, LoCon or LoRA-X file, or a PEFT folder.

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
        settings = _json(config, config.read_bytes()) if config.is_file() else {}
        path = found
    file = open_tensors(path)
    if any(key.startswith(families.UNET.checkpoint) and lora.split(key) is None for key in file.shapes):
        raise LoraxError(f"{path}: a base checkpoint, not a LoRA. Give it as --source or --target.")
    if not file.shapes:
        raise NotAnAdapter(f"{path}: holds no tensors; expected a LoRA.")
    if "lora_adapter_metadata" in file.metadata:  # diffusers 0.34 and newer
        settings = _json(path, file.metadata["lora_adapter_metadata"])
    return AdapterFile(given, file, settings)


def _refusal(path: Path, unknown: str, keys: Iterable[str]) -> LoraxError:
    """Why the file with the ``unknown`` key is refused. Any of its keys may be the one that tells what it is."""
    for sign, title in UNSUPPORTED.items():
        if key := next((key for key in keys if re.search(sign, key)), None):
            return LoraxError(f"{path}: {key} belongs to a {title} adapter. Only LoRA and LoCon are supported so far.")
    return NotAnAdapter(f"{path}: unexpected key {unknown}; expected a LoRA with keys like lora_unet_..._to_q.lora_down.weight.")


def _json(path: Path, text: str | bytes) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:  # of JSON or of UTF-8
        raise LoraxError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise LoraxError(f"{path}: expected a JSON object.")
    return value
