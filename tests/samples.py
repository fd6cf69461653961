"""The tiny bases and the LoRA that most tests use, and files made from them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lorax.cli import main
from tests import builders
from tests.builders import TE, UNET, Delta, State

SOURCE_METADATA = {
    "ss_tag_frequency": '{"10_origami": {"paper": 3}}',
    "ss_output_name": "style",
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "old.safetensors",
    "ss_new_sd_model_hash": "0" * 64,
    "ss_resolution": "(640, 640)",
    "ss_training_comment": "by hand",
    "ss_network_dim": "128",
    "ss_network_alpha": "64",
    "ss_network_module": "lycoris.kohya",
    "sshs_model_hash": "1" * 64,
    "sshs_legacy_hash": "12345678",
    "modelspec.title": "Style",
    "modelspec.hash_sha256": "0x" + "2" * 64,
    "modelspec.description": "Folds.",
    "modelspec.implementation_version": "sd-scripts/0",
    "modelspec.resolution": "640x640",
    "modelspec.thumbnail": "data:image/png;base64,AAAA",
    "modelspec.trigger_phrase": "origami",
}


class Files:
    """A family of tiny bases and a LoRA of the first, written once for all tests. Tests must not change them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_state = builders.base()
        self.target_state = builders.relative(self.base_state)
        self.pruned_state = builders.pruned(self.base_state)
        self.base = builders.save(self.base_state, folder / "base.safetensors")
        self.target = builders.save(self.target_state, folder / "target.safetensors")
        self.pruned = builders.save(self.pruned_state, folder / "pruned.safetensors")
        self.stranger = builders.save(builders.base(seed=77), folder / "stranger.safetensors")
        self.deltas = builders.deltas(builders.SOME + builders.CONVOLUTIONS + builders.TEXT)
        self.lora = builders.save_lora(folder / "style.safetensors", self.deltas)


def arguments(files: Files, lora: Path | None = None, target: Path | None = None) -> list[str]:
    return [str(lora or files.lora), "--source", str(files.base), "--target", str(target or files.target)]


def transfer(lora: Path, source: Path, target: Path, out: Path, *more: str) -> Path:
    written = out / "moved.safetensors"
    assert main(["transfer", str(lora), "--source", str(source), "--target", str(target), "--output", str(written), *more]) == 0
    return written


def kohya(deltas: Iterable[builders.Delta]) -> dict[str, np.ndarray]:
    return {delta.named("kohya"): delta.dense for delta in deltas}


def weight(state: State, delta: builders.Delta) -> np.ndarray:
    prefix = builders.TE if delta.component == "te" else builders.UNET
    return state[f"{prefix}{delta.ldm}.weight"].flatten(1).double().numpy()


def along(files: Files, path: Path, c: float, deltas: Iterable[Delta] | None = None) -> Path:
    """A target that moved along the adapter's delta: W_t = W_s + c * dW + noise."""
    state = dict(files.target_state)
    for delta in files.deltas if deltas is None else deltas:
        key = f"{TE if delta.component == 'te' else UNET}{delta.ldm}.weight"
        state[key] = state[key] + c * torch.from_numpy(delta.dense).reshape(state[key].shape).float()
    return builders.save(state, path)


def changed(path: Path, out: Path, **metadata: str | None) -> Path:
    """A copy with other metadata; None removes an entry."""
    kept = {key: value for key, value in (builders.header(path) | metadata).items() if value is not None}
    copy = out / "changed.safetensors"
    save_file(load_file(path), copy, kept)
    return copy


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def raw(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
