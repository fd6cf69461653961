"""Opens an adapter file: groups its keys by layer, checks them by shape, decodes single layers on demand."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cached_property
from pathlib import Path

from lorax import families
from lorax.adapter import LowRank
from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.families import Family
from lorax.formats import lora
from lorax.tensors import TensorFile, open_tensors

# Keys of formats that exist and are not read yet, so that the refusal can name them.
UNSUPPORTED = {
    "hada_w1": "LoHa",
    "lokr_w1": "LoKr",
    "oft_": "OFT",
    ".on_input": "(IA)^3",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".diff": "full",
}
PEFT_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin")


class AdapterFile:
    """An adapter on disk. ``parts``: layer name as spelled in the file -> part -> key. Nothing is read before ``delta``."""

    def __init__(self, path: Path, file: TensorFile, settings: dict) -> None:
        self.path, self._file, self._settings = path, file, settings
        self.metadata = file.metadata
        self.parts: dict[str, dict[str, str]] = {}
        for key in file.shapes:
            if (found := lora.split(key)) is None:
                raise LoraxError(f"{path}: {_refusal(key)}")
            self.parts.setdefault(found[0], {})[found[1]] = key
        for name in self.parts:
            lora.check(f"{path}: {name}", self._shapes(name))

    def delta(self, name: str) -> LowRank:
        """dW of the layer that the file spells ``name``."""
        return lora.decode(f"{self.path}: {name}", self._file.get, self.parts[name], self._default_alpha(name))

    def shape(self, name: str) -> tuple[int, int]:
        return lora.shape(self._shapes(name))

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
            if self.shape(name) != expected:
                raise LoraxError(
                    f"{self.path}: {name} changes a weight of shape {self.shape(name)}, but in {base.path} it is {expected}. "
                    "Choose as source the base that the adapter was trained on."
                )
        return layers

    @cached_property
    def family(self) -> Family | None:
        downs = {name: self._file.shapes[parts[lora.DOWN]] for name, parts in self.parts.items()}
        return families.detect_adapter(self.parts, downs)

    @property
    def ranks(self) -> Counter[int]:
        """Rank -> number of layers that have it."""
        return Counter(self._shapes(name)[lora.UP][1] for name in self.parts)

    def _shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        return {part: self._file.shapes[key] for part, key in self.parts[name].items()}

    def _default_alpha(self, name: str) -> float | None:
        """Alpha from PEFT's configuration, which keeps it outside the tensors (and rsLoRA's scale alpha / sqrt(rank))."""
        head = name.partition(".")[0] + "."  # diffusers keeps one configuration per component: unet.lora_alpha, ...
        settings = self._settings | {k.removeprefix(head): v for k, v in self._settings.items() if k.startswith(head)}
        if "lora_alpha" not in settings:
            return None
        patterns = settings.get("alpha_pattern") or {}
        alpha = next((value for key, value in patterns.items() if name.endswith(key)), settings["lora_alpha"])
        rank = self._shapes(name)[lora.DOWN][0]
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise LoraxError(f"{self.path}: {name}: its configuration gives the alpha {alpha!r}; expected a number.")
        return alpha * rank**0.5 if settings.get("use_rslora") else float(alpha)


def open_adapter(path: Path | str) -> AdapterFile:
    """Open a LoRA or LoCon file, or a PEFT folder. Raises LoraxError when it is something else or damaged."""
    path = Path(path)
    settings: dict = {}
    if path.is_dir():
        found = next((path / name for name in PEFT_FILES if (path / name).is_file()), None)
        if found is None:
            raise LoraxError(f"{path}: no adapter in this folder; expected {PEFT_FILES[0]} or {PEFT_FILES[1]}.")
        config = path / "adapter_config.json"
        settings = _json(config, config.read_bytes()) if config.is_file() else {}
        path = found
    file = open_tensors(path)
    if any(key.startswith(families.UNET.checkpoint) and lora.split(key) is None for key in file.shapes):
        raise LoraxError(f"{path}: a base checkpoint, not a LoRA. Give it as --source or --target.")
    if not file.shapes:
        raise LoraxError(f"{path}: holds no tensors; expected a LoRA.")
    if "lora_adapter_metadata" in file.metadata:  # diffusers 0.34 and newer
        settings = _json(path, file.metadata["lora_adapter_metadata"])
    return AdapterFile(path, file, settings)


def _refusal(key: str) -> str:
    for sign, title in UNSUPPORTED.items():
        if sign in key:
            return f"a {title} adapter (it has {key}). Only LoRA and LoCon are supported so far."
    return f"unexpected key {key}; expected a LoRA with keys like lora_unet_..._to_q.lora_down.weight."


def _json(path: Path, text: str | bytes) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:  # of JSON or of UTF-8
        raise LoraxError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise LoraxError(f"{path}: expected a JSON object.")
    return value
