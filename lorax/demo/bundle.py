"""The bundled models: small, really trained by ``lab/``, stored once where siblings share a tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax.errors import LoraxError
from lorax.tensors import TensorFile, hashes, open_tensors

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
    base = open_tensors(bundle / f"{BASE}.safetensors")
    for model in (BASE, FINETUNE, PRUNED):
        packed, path = bundle / f"{model}.safetensors", folder / f"{model}.safetensors"
        origin = hashes(base.path, packed).sha256
        if not path.is_file() or _origin(path) != origin:
            temporary = path.with_suffix(".tmp")
            save_file(_whole(open_tensors(packed), base), temporary, {"format": "pt", ORIGIN: origin})
            temporary.chmod(0o644)  # safetensors makes it the owner's alone
            temporary.replace(path)
        config = (bundle / f"{model}.yaml").read_text(encoding="utf-8")
        config = config.format(tokenizer=json.dumps(tokenizer.resolve().as_posix()))
        (folder / f"{model}.yaml").write_text(config, encoding="utf-8")
    return tokenizer


def _origin(path: Path) -> str:
    """The digest of the bundle from which ``path`` was unpacked."""
    origin = open_tensors(path).metadata.get(ORIGIN)
    if origin is None:
        raise LoraxError(f"{path}: exists and is not one of the bundled models. Choose another folder.")
    return origin


def pack(path: Path, tensors: dict[str, torch.Tensor], base: dict[str, torch.Tensor]) -> None:
    """Store a sibling without the tensors that the base has too, under whatever name."""
    content = {_fingerprint(value): key for key, value in base.items()}
    shared = {key: content[mark] for key, value in tensors.items() if (mark := _fingerprint(value)) in content}
    own = {key: value.contiguous() for key, value in tensors.items() if key not in shared}
    save_file(own, path, {"format": "pt", SHARED: json.dumps(shared)})


def _whole(sibling: TensorFile, base: TensorFile) -> dict[str, torch.Tensor]:
    """The sibling's own tensors and those that it shares; cloned, since one of the base's may serve under several names."""
    shared = json.loads(sibling.metadata.get(SHARED, "{}"))
    return {key: sibling.get(key) for key in sibling.shapes} | {key: base.get(name).clone() for key, name in shared.items()}


def _fingerprint(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.contiguous().numpy().tobytes()
