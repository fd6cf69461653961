"""The bundled models: small, really trained by ``lab/``, stored once where siblings share a tensor."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lorax.errors import LoraxError

BUNDLE = Path(__file__).resolve().parents[2] / "lab" / "models"
BASE, FINETUNE, PRUNED = "base", "finetune", "pruned"
STYLE = "contrast"  # the LoRA that the demo moves
ORIGIN = "lorax_bundle"  # header entry of an unpacked model: digest of the bundle that it was made from
SHARED = "lorax_shared"  # header entry of a sibling: its key -> the base's key with the same content


def unpack(folder: Path, bundle: Path = BUNDLE) -> Path:
    """Write whole checkpoints with their ``.yaml`` into ``folder``, if they are not there yet; return the tokenizer folder.

    Raises LoraxError if the bundle is missing, or a file of another origin is in the way.
    """
    if not (bundle / f"{BASE}.safetensors").is_file():
        raise LoraxError(f"{bundle}: the bundled models are missing. Clone the whole repository.")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer"
    shutil.copytree(bundle / "tokenizer", tokenizer, dirs_exist_ok=True)
    with safe_open(str(bundle / f"{BASE}.safetensors"), framework="pt") as base:
        for model in (BASE, FINETUNE, PRUNED):
            packed, path = bundle / f"{model}.safetensors", folder / f"{model}.safetensors"
            origin = _digest(bundle / f"{BASE}.safetensors", packed)
            if not path.is_file() or _origin(path) != origin:
                temporary = path.with_suffix(".tmp")
                save_file(_whole(packed, base), temporary, {"format": "pt", ORIGIN: origin})
                temporary.chmod(0o644)  # safetensors makes it the owner's alone
                temporary.replace(path)
            config = (bundle / f"{model}.yaml").read_text(encoding="utf-8")
            config = config.format(tokenizer=json.dumps(tokenizer.resolve().as_posix()))
            (folder / f"{model}.yaml").write_text(config, encoding="utf-8")
    return tokenizer


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _origin(path: Path) -> str:
    """The digest of the bundle from which ``path`` was unpacked."""
    with safe_open(str(path), framework="pt") as file:
        origin = (file.metadata() or {}).get(ORIGIN)
    if origin is None:
        raise LoraxError(f"{path}: exists and is not one of the bundled models. Choose another folder.")
    return str(origin)


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
