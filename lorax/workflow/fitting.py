"""Fits LoRA-X files to checkpoints. A fit has the layers that a transfer with the file's settings would write as a plain LoRA."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from lorax import __version__
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.devices import pick_device
from lorax.errors import LoraxError, UnsupportedFamily
from lorax.files import Cache, Entry, Stamp, hashes, stamp
from lorax.formats import AdapterFile, Header, open_adapter, split
from lorax.low_rank import LowRank
from lorax.options import Options
from lorax.output import plain_lora
from lorax.progress import MOVING, Meter, Progress, silent
from lorax.transfer import Context, plan, run, wording


class Library(Protocol):
    """A host's checkpoints."""

    def sha256(self, path: Path) -> str | None:
        """Return the hash of the file's content, or None if that takes reading the file."""

    def candidates(self, header: Header) -> Iterable[Path]:
        """Yield the files that may be the source in the header, the likeliest first."""


@dataclass(frozen=True)
class Fit:
    """A fitted file: tensors by target layer and part, and a message. ``final`` is False if the source is missing now."""

    layers: dict[str, dict[str, torch.Tensor]]
    message: str = ""
    final: bool = True


class Fitter:
    """Fits files to checkpoints. Fits are stored in the cache; hashes and comparisons of files are stored in the object."""

    def __init__(self, cache: Cache, library: Library) -> None:
        self.cache, self._library = cache, library
        self._hashes: dict[Stamp, str] = {}
        self._is_source_of: dict[tuple[Stamp, Stamp], bool] = {}

    def fit(self, file: Path, target: Path, device: str, progress: Progress = silent) -> Fit:
        """Fit ``file`` to ``target``; ``progress`` may raise to cancel. Raises LoraxError if the two do not go together."""
        adapter = open_adapter(file)
        if adapter.header is None:
            raise LoraxError(f"{file}: not a LoRA-X file. A plain LoRA needs no fitting.")
        options, dtype = settings(adapter)
        key = self._key(adapter, target)
        if (entry := self.cache.get(key)) is not None:
            return _from_entry(entry)
        base = _open_target(adapter, target)
        if self._is_source(adapter, base):
            fit = Fit(_encoded(base, _rebuilt(adapter, base, device, progress), dtype))
        elif (source := self._source(adapter)) is not None:
            moved = run(plan(adapter, source, base, dataclasses.replace(options, device=device)), Context(progress, self.cache))
            message = "" if moved.layers else f"not applied. {wording.declined(moved.report) or wording.summary(moved.report)}"
            fit = Fit(_encoded(base, moved.layers, dtype), message)
        elif any(layer.is_on_base for layer in adapter.layers.values()):
            raise LoraxError(
                f"not applied. It is rebuilt from {adapter.header.named_source}, which is not here. Put that checkpoint beside "
                f"{base.path.name}, or use the adapter's form with factors."
            )
        else:
            message = (
                f"applied by name, since {adapter.header.named_source}, for which it was made, is not here. "
                f"Put that checkpoint beside {base.path.name} to have the file fitted."
            )
            return Fit(_encoded(base, adapter.deltas_of(base), dtype), message, final=False)
        tensors = {f"{layer}.{part}": tensor for layer, parts in fit.layers.items() for part, tensor in parts.items()}
        self.cache.put(key, Entry(tensors, {"message": fit.message}))
        return fit

    def _key(self, adapter: AdapterFile, target: Path) -> str:
        """Return the cache's key. The file's hash includes its header, and so the settings."""
        content = self._hash_once(adapter.path, lambda: hashes(adapter.path).sha256)
        base = self._library.sha256(target) or self._hash_once(target, lambda: _open_target(adapter, target).identity.sha256)
        return hashlib.sha256(json.dumps([__version__, content, base]).encode()).hexdigest()

    def _hash_once(self, path: Path, sha256: Callable[[], str]) -> str:
        if (state := stamp(path)) not in self._hashes:
            self._hashes[state] = sha256()
        return self._hashes[state]

    def _source(self, adapter: AdapterFile) -> Checkpoint | None:
        assert adapter.header is not None
        for path in self._library.candidates(adapter.header):
            try:
                candidate = open_checkpoint(path)
            except LoraxError:
                continue
            if self._is_source(adapter, candidate):
                return candidate
        return None

    def _is_source(self, adapter: AdapterFile, base: Checkpoint) -> bool:
        pair = stamp(adapter.path), stamp(base.path)
        if pair not in self._is_source_of:
            self._is_source_of[pair] = _matches(adapter, base)
        return self._is_source_of[pair]


def settings(adapter: AdapterFile) -> tuple[Options, torch.dtype]:
    """Return the options of a transfer and the precision that a LoRA-X file asks for. Raises LoraxError if they are damaged."""
    assert adapter.header is not None
    given = dict(adapter.header.settings)
    try:
        dtype = plain_lora.DTYPES[given.pop("dtype")]
        return Options(method=adapter.header.method, **given), dtype
    except (KeyError, TypeError, LoraxError) as error:
        raise LoraxError(f"{adapter.path}: its settings are not understood ({error}). Save the file again.") from error


def _open_target(adapter: AdapterFile, target: Path) -> Checkpoint:
    assert adapter.header is not None
    wanted = adapter.header.family.title
    try:
        base = open_checkpoint(target)
        title = base.family.title
    except UnsupportedFamily as error:
        title = error.title
    if title != wanted:
        raise LoraxError(f"{adapter.path}: made for {wanted}, but {target} is {title}. It is not applied.")
    return base


def _matches(adapter: AdapterFile, base: Checkpoint) -> bool:
    assert adapter.header is not None
    try:
        layers = [layer for layer in adapter.layers_of(base).values() if layer is not None]
    except LoraxError:  # of another shape or family
        return False
    return len(layers) == len(adapter.layers) and base.identity.fingerprint(layers) == adapter.header.fingerprint


def _rebuilt(adapter: AdapterFile, base: Checkpoint, device: str, progress: Progress) -> dict[str, LowRank]:
    """Return the adapter's deltas on its source. In the small form, each takes a decomposition."""
    layers = [(name, layer) for name, layer in adapter.layers_of(base).items() if layer is not None]
    deltas, meter = {}, Meter(progress)
    for done, (name, layer) in enumerate(layers):
        meter.at(done, len(layers), MOVING)
        deltas[layer] = adapter.delta(name, base, pick_device(device))
    return deltas


def _encoded(base: Checkpoint, layers: Mapping[str, LowRank], dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    missing = plain_lora.missing_in_attentions(base, layers).items()
    return {layer: plain_lora.factors(base, layer, layers[other].zero(), dtype) for layer, other in missing} | {
        layer: plain_lora.factors(base, layer, delta.balanced(), dtype) for layer, delta in layers.items()
    }


def _from_entry(entry: Entry) -> Fit:
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in entry.tensors.items():
        found = split(key)
        assert found is not None
        layers.setdefault(found[0], {})[key[len(found[0]) + 1 :]] = tensor
    return Fit(layers, entry.notes.get("message", ""))
