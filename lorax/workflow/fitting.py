"""Fits a LoRA-X file to a checkpoint: the layers of the plain LoRA that a transfer with the file's settings would write."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
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
from lorax.progress import Progress, silent
from lorax.transfer import Context, plan, run, wording


class Library(Protocol):
    """What a host knows of the checkpoints on its disk."""

    def sha256(self, path: Path) -> str | None:
        """Of the file's content, if it is known without reading the file."""

    def candidates(self, header: Header) -> Iterable[Path]:
        """Files that may be the source that the header tells of, the likeliest first."""


@dataclass(frozen=True)
class Fit:
    """Target layer -> part -> tensor, as in a written LoRA. ``message`` is for the user.

    ``final`` is False where another checkpoint, once it is on disk, would give a better fit.
    """

    layers: dict[str, dict[str, torch.Tensor]]
    message: str = ""
    final: bool = True


class Fitter:
    """Fits files to checkpoints, and keeps what it found in the cache and what it learned about files in memory."""

    def __init__(self, cache: Cache, library: Library) -> None:
        self.cache, self._library = cache, library
        self._content: dict[Stamp, str] = {}
        self._same: dict[tuple[Stamp, Stamp], bool] = {}

    def fit(self, file: Path, target: Path, device: str, progress: Progress = silent) -> Fit:
        """The layers with which ``file`` acts on ``target``. ``progress(done, total, name)`` may raise to cancel.

        Raises LoraxError when the two cannot be brought together.
        """
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
            return Fit(_encoded(base, adapter.deltas_of(base), dtype), _missing(adapter, base), final=False)
        self.cache.put(key, _to_entry(fit))
        return fit

    def _key(self, adapter: AdapterFile, target: Path) -> str:
        """The file's hash covers its header, and with it the settings."""
        content = self._remembered(adapter.path, lambda: hashes(adapter.path).sha256)
        base = self._library.sha256(target) or self._remembered(target, lambda: _open_target(adapter, target).identity.sha256)
        return hashlib.sha256(json.dumps([__version__, content, base]).encode()).hexdigest()

    def _remembered(self, path: Path, sha256: Callable[[], str]) -> str:
        found = stamp(path)
        if found not in self._content:
            self._content[found] = sha256()
        return self._content[found]

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
        if pair not in self._same:
            self._same[pair] = _matches(adapter, base)
        return self._same[pair]


def settings(adapter: AdapterFile) -> tuple[Options, torch.dtype]:
    """The transfer's options and the precision that a LoRA-X file asks for."""
    assert adapter.header is not None
    given = dict(adapter.header.settings)
    try:
        dtype = plain_lora.DTYPES[given.pop("dtype")]
        return Options(method=adapter.header.method, **given), dtype
    except (KeyError, TypeError, LoraxError) as error:
        raise LoraxError(f"{adapter.path}: its settings are not understood ({error}). Save the file again.") from error


def _open_target(adapter: AdapterFile, target: Path) -> Checkpoint:
    assert adapter.header is not None
    made = adapter.header.family
    try:
        base = open_checkpoint(target)
        title = base.family.title
    except UnsupportedFamily as error:
        title = error.title
    if title != made.title:
        raise LoraxError(f"{adapter.path}: made for {made.title}, but {target} is {title}. It is not applied.")
    return base


def _matches(adapter: AdapterFile, base: Checkpoint) -> bool:
    assert adapter.header is not None
    try:
        layers = [layer for layer in adapter.layers_of(base).values() if layer is not None]
    except LoraxError:  # of another shape or family
        return False
    return len(layers) == len(adapter.layers) and base.identity.fingerprint(layers) == adapter.header.fingerprint


def _rebuilt(adapter: AdapterFile, base: Checkpoint, device: str, progress: Progress) -> dict[str, LowRank]:
    """The adapter's deltas on its source, which in the small form take a decomposition each."""
    layers = [(name, layer) for name, layer in adapter.layers_of(base).items() if layer is not None]
    deltas = {}
    for done, (name, layer) in enumerate(layers):
        progress(done, len(layers), name)
        deltas[layer] = adapter.delta(name, base, pick_device(device))
    return deltas


def _encoded(base: Checkpoint, layers: dict[str, LowRank], dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    whole = plain_lora.with_whole_attentions(base, layers)
    return {layer: plain_lora.factors(base, layer, delta.balanced(), dtype) for layer, delta in whole.items()}


def _missing(adapter: AdapterFile, base: Checkpoint) -> str:
    assert adapter.header is not None
    return (
        f"applied by name, since {adapter.header.named_source}, for which it was made, is not here. "
        f"Put that checkpoint beside {base.path.name} to have the file fitted."
    )


def _to_entry(fit: Fit) -> Entry:
    tensors = {f"{layer}.{part}": tensor for layer, parts in fit.layers.items() for part, tensor in parts.items()}
    return Entry(tensors, {"message": fit.message})


def _from_entry(entry: Entry) -> Fit:
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in entry.tensors.items():
        found = split(key)
        assert found is not None
        layers.setdefault(found[0], {})[key[len(found[0]) + 1 :]] = tensor
    return Fit(layers, entry.notes.get("message", ""))
