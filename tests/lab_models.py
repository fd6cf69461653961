"""The lab's trained models and LoRAs, and transfers that are planned between them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.paths import CACHE
from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, BUNDLE, FINETUNE, PACKED, PRUNED, WHOLE, unpack_file
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.options import Options, Running
from lorax.progress import Progress, silent
from lorax.transfer import Context, Plan, plan

HEADLINE = BUNDLE.parent / "headline"
STRANGER = "scratch"
NEEDS_ICONS = pytest.mark.skipif(not (CACHE / "icons").is_dir(), reason="the icons are not rendered; that needs npm")


def committed(lora: str) -> Path:
    """A LoRA that is packed in the repository, unpacked."""
    folder = CACHE / "committed"
    folder.mkdir(parents=True, exist_ok=True)
    packed = next(path for kept in (BUNDLE, HEADLINE) if (path := kept / "loras" / f"{lora}{PACKED}").is_file())
    unpack_file(packed, path := folder / f"{lora}{WHOLE}")
    return path


def put_loras(folder: Path) -> None:
    """Put a LoRA of one style for each of the bundled models into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for base in (BASE, FINETUNE, PRUNED):
        shutil.copy(committed(f"contrast-{base}"), folder)


LORA, LOCON = committed("contrast-base"), committed("openmoji-r4-base")


def planned(models: Path, target: str, method: str, lora: Path = LORA, **running: Any) -> Plan:
    source = open_checkpoint(models / f"{BASE}.safetensors")
    found = plan(open_adapter(lora), source, open_checkpoint(models / f"{target}.safetensors"), Options(method))
    return dataclasses.replace(found, running=Running(**{"pictures": 32, **running}))


def on_diffusers(progress: Progress = silent, cache: Cache | None = None) -> Context:
    """The context of a transfer whose models diffusers runs, on the processor."""
    pytest.importorskip("diffusers", reason="without diffusers nothing runs the models")
    from lorax.runner import Runners

    return Context(progress, cache, Runners(torch.device("cpu")))
