"""The bundled models: small, really trained by ``lab/``, stored once where siblings share a tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lorax.errors import LoraxError

BUNDLE = Path(__file__).resolve().parents[2] / "lab" / "models"
BASE, FINETUNE, PRUNED = "base", "finetune", "pruned"
SHARED = "lorax_shared"  # header entry of a sibling: its key -> the base's key with the same content


def unpack(folder: Path, bundle: Path = BUNDLE) -> Path:
    """Write whole checkpoints with their ``.yaml`` into ``folder`` (models that exist are kept); return the tokenizer folder."""
    if not (bundle / f"{BASE}.safetensors").is_file():
        raise LoraxError(f"{bundle}: the bundled models are missing. Clone the whole repository.")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer"
    shutil.copytree(bundle / "tokenizer", tokenizer, dirs_exist_ok=True)
    with safe_open(str(bundle / f"{BASE}.safetensors"), framework="pt") as base:
        for model in (BASE, FINETUNE, PRUNED):
            if not (folder / f"{model}.safetensors").is_file():
                temporary = folder / f"{model}.tmp"
                save_file(_whole(bundle / f"{model}.safetensors", base), temporary, {"format": "pt"})
                temporary.replace(folder / f"{model}.safetensors")
            config = (bundle / f"{model}.yaml").read_text(encoding="utf-8")
            config = config.format(tokenizer=json.dumps(tokenizer.resolve().as_posix()))
            (folder / f"{model}.yaml").write_text(config, encoding="utf-8")
    return tokenizer


def pack(path: Path, tensors: dict[str, torch.Tensor], base: dict[str, torch.Tensor]) -> None:
    """Store a sibling without the tensors that the base has too, under whatever name."""
    content = {_fingerprint(value): key for key, value in base.items()}
    shared = {key: content[mark] for key, value in tensors.items() if (mark := _fingerprint(value)) in content}
    own = {key: value.contiguous() for key, value in tensors.items() if key not in shared}
    save_file(own, path, {"format": "pt", SHARED: json.dumps(shared)})


def _whole(path: Path, base: safe_open) -> dict[str, torch.Tensor]:
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        shared = json.loads((file.metadata() or {}).get(SHARED, "{}"))
    return tensors | {key: base.get_tensor(name) for key, name in shared.items()}


def _fingerprint(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.contiguous().numpy().tobytes()
