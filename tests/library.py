"""A user's folder of checkpoints and LoRAs, and requests for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorax.hosts.standalone import Standalone
from lorax.options import Options
from lorax.workflow import Request
from tests import builders
from tests.samples import Files


def silent(done: int, total: int, text: str) -> None:
    pass


def make(folder: Path, files: Files) -> Path:
    """A user's folder: two checkpoints, and three LoRAs in a folder of their own."""
    models = folder / "models"
    (models / "Lora" / "styles").mkdir(parents=True)
    for base in (files.base, files.target):
        shutil.copy(base, models)
    named = {"ss_sd_model_name": "base.safetensors", "modelspec.trigger_phrase": "origami"}
    builders.save_lora(models / "Lora" / "one.safetensors", files.deltas, metadata=named)
    builders.save_lora(models / "Lora" / "styles" / "two.safetensors", files.deltas)
    (models / "Lora" / "broken.safetensors").write_bytes(b"no tensors")
    (models / "notes.ckpt").write_bytes(b"no checkpoint")
    shutil.copy(models / "Lora" / "one.safetensors", models / "Lora" / "LOUD.SAFETENSORS")
    return models


def request(folder: Path, *names: str, options: Options | None = None) -> Request:
    host = Standalone(folder)
    bases, adapters = host.bases(), host.adapters()
    return Request(bases["base"], bases["target"], [adapters[f"Lora/{name}"] for name in names], options or Options("copy"))


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*-target*")) + sorted(path.name for path in folder.rglob("*.tmp"))
