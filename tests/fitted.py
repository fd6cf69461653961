"""LoRA-X files fitted to a checkpoint, and the plain LoRAs that they must equal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

from lab import writing
from lorax.checkpoint import open_checkpoint
from lorax.files import Cache
from lorax.formats import Header, open_adapter
from lorax.transfer import plan, run
from lorax.workflow import Fit, Fitter, fitting


class Shelf:
    """A library of these files, of which no hash is known."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    def sha256(self, path: Path) -> str | None:
        return None

    def candidates(self, header: Header) -> Iterable[Path]:
        return self.paths


def fit(file: Path, target: Path, *shelf: Path, cache: Cache | None = None) -> Fit:
    return Fitter(cache or Cache(None, 0, 0), Shelf(*shelf)).fit(file, target, "cpu")


def saved(file: Path, source: Path, target: Path, out: Path) -> dict[str, torch.Tensor]:
    """What a transfer with the file's settings writes."""
    options, _ = fitting.settings(open_adapter(file))
    planned = plan(open_adapter(file), open_checkpoint(source), open_checkpoint(target), options)
    writing.write(planned, run(planned), out / "plain.safetensors")
    return load_file(out / "plain.safetensors")


def tensors(fit: Fit, target: Path) -> dict[str, torch.Tensor]:
    base = open_checkpoint(target)
    return {f"{base.names.kohya(layer)}.{part}": t for layer, parts in fit.layers.items() for part, t in parts.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key
