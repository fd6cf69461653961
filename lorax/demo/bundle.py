"""Unpacks the bundled models, which ``lab/`` trained. A tensor that two models share is stored once."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax.errors import LoraxError
from lorax.files import TensorFile, hashes, open_tensors

BUNDLE = Path(__file__).resolve().parents[2] / "lab" / "models"
BASE, FINETUNE, PRUNED = "base", "finetune", "pruned"
STYLE = "contrast"  # the LoRA that the demo moves
ORIGIN = "lorax_bundle"  # header entry of an unpacked model: digest of its bundle
SIBLING = "lorax_sibling"  # header entry: the model with which this one shares tensors; by default the base
SHARED = "lorax_shared"  # header entry: key -> the sibling's key with the same content


def unpack(folder: Path, bundle: Path = BUNDLE) -> Path:
    """Write whole checkpoints with their ``.yaml`` into ``folder``, if they are not there yet; return the tokenizer folder.

    If a model's sibling is in another bundle, unpack that bundle into the same folder first. Raises LoraxError if the bundle is
    missing, or if there is another file of a model's name.
    """
    packed = {path.stem: open_tensors(path) for path in sorted(bundle.glob("*.safetensors"))}
    if not packed:
        raise LoraxError(f"{bundle}: the bundled models are missing. Clone the whole repository.")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer"
    if (bundle / "tokenizer").is_dir():
        shutil.copytree(bundle / "tokenizer", tokenizer, dirs_exist_ok=True, copy_function=_copy)
    for model in sorted(packed, key=lambda name: _sibling(packed[name]) in packed):  # after its sibling
        file, path = packed[model], folder / f"{model}.safetensors"
        sibling = folder / f"{name}.safetensors" if (name := _sibling(file)) else None
        origin = hashes(*([sibling] if sibling else []), file.path).sha256
        if not path.is_file() or _origin(path) != origin:
            temporary = _beside(path)
            save_file(_whole(file, sibling), temporary, {"format": "pt", ORIGIN: origin})
            temporary.chmod(0o644)  # safetensors makes files that only their owner can read
            temporary.replace(path)
        config = (bundle / f"{model}.yaml").read_text(encoding="utf-8")
        config = config.format(tokenizer=json.dumps(tokenizer.resolve().as_posix()))
        _put(folder / f"{model}.yaml", config.encode())
    return tokenizer


def _copy(source: str, target: str) -> None:
    _put(Path(target), Path(source).read_bytes())


def _put(path: Path, content: bytes) -> None:
    """Put a file there as a whole, unless it is there already: somebody may be reading it."""
    if not path.is_file() or path.read_bytes() != content:
        temporary = _beside(path)
        temporary.write_bytes(content)
        temporary.replace(path)


def _beside(path: Path) -> Path:
    """Return a path for a file until it is whole, of this process alone: another may be unpacking or reading there."""
    return path.with_suffix(f".{os.getpid()}.tmp")


def _sibling(packed: TensorFile) -> str | None:
    """Return the name of the model with which a packed one shares tensors, or None."""
    return packed.metadata.get(SIBLING, BASE) if json.loads(packed.metadata.get(SHARED, "{}")) else None


def _origin(path: Path) -> str:
    """Return the digest of the bundle from which ``path`` was unpacked."""
    origin = open_tensors(path).metadata.get(ORIGIN)
    if origin is None:
        raise LoraxError(f"{path}: exists and is not one of the bundled models. Choose another folder.")
    return origin


def _whole(file: TensorFile, sibling: Path | None) -> dict[str, torch.Tensor]:
    """Return the model's own tensors and those that it shares, as clones: one tensor of the sibling may have several names."""
    own = {key: file.get(key) for key in file.shapes}
    if sibling is None:
        return own
    other = open_tensors(sibling)
    return own | {key: other.get(name).clone() for key, name in json.loads(file.metadata[SHARED]).items()}
