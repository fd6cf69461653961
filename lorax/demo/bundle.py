"""Unpacks the bundled models, which ``lab/`` trained and packed.

A tensor that two models share is stored once. Matrices and kernels have 8 bits a value, and a scale for each row or column.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load

from lorax.errors import LoraxError, reading
from lorax.files import TensorWriter, hashes, open_tensors

BUNDLE = Path(__file__).resolve().parents[2] / "lab" / "models"
BASE, FINETUNE, PRUNED = "base", "finetune", "pruned"
CAPTIONS = BUNDLE / "captions.txt"
STYLE = "badge-long"  # the LoRA that the demo moves
WHOLE, PACKED = ".safetensors", ".safetensors.xz"
SCALE = ":scale"  # after a key: by what its tensor is multiplied
ORIGIN = "lorax_bundle"  # header entry of an unpacked file: digest of what it was unpacked from
SIBLING = "lorax_sibling"  # header entry: the model with which this one shares tensors
SHARED = "lorax_shared"  # header entry: key -> the sibling's key with the same content
ADDED = "lorax_added"  # header entry: keys of what is added to the sibling's tensors


def unpack(folder: Path, bundle: Path = BUNDLE) -> Path:
    """Write whole checkpoints with their ``.yaml`` into ``folder``, if they are not there yet; return the tokenizer folder.

    If a model's sibling is in another bundle, unpack that bundle into the same folder first. Raises LoraxError if the bundle is
    missing or damaged, or if there is another file of a model's name.
    """
    packed = {path.name.removesuffix(PACKED): path for path in sorted(bundle.glob(f"*{PACKED}"))}
    if not packed:
        raise LoraxError(f"{bundle}: the bundled models are missing. Clone the whole repository.")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer"
    if (bundle / "tokenizer").is_dir():
        shutil.copytree(bundle / "tokenizer", tokenizer, dirs_exist_ok=True, copy_function=_copy)
    siblings = {model: _metadata(path).get(SIBLING) for model, path in packed.items()}
    for model in sorted(packed, key=lambda name: siblings[name] in packed):  # after its sibling
        unpack_file(packed[model], folder / f"{model}{WHOLE}")
        config = (bundle / f"{model}.yaml").read_text(encoding="utf-8")
        config = config.format(tokenizer=json.dumps(tokenizer.resolve().as_posix()))
        _put(folder / f"{model}.yaml", config.encode())
    return tokenizer


def unpack_loras(folder: Path, bundle: Path = BUNDLE) -> None:
    """Write the LoRAs into ``folder``, if they are not there yet. Raises LoraxError as ``unpack_file`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    for packed in sorted((bundle / "loras").glob(f"*{PACKED}")):
        unpack_file(packed, folder / packed.stem)


def unpack_file(packed: Path, path: Path) -> None:
    """Write a checkpoint or a LoRA as a whole, with the same bytes on every machine, if it is not there yet.

    Its sibling must be in the same folder already. Raises LoraxError if ``packed`` is damaged, or if there is another file.
    """
    metadata = _metadata(packed)
    sibling = path.with_name(f"{metadata[SIBLING]}{WHOLE}") if SIBLING in metadata else None
    origin = hashes(*([sibling] if sibling else []), packed).sha256
    if path.is_file() and _origin(path) == origin:
        return
    own = read_packed(packed)[0]
    tensors = own | _from_sibling(own, metadata, sibling)
    kept = {key: value for key, value in metadata.items() if key not in (SIBLING, SHARED, ADDED)} | {ORIGIN: origin}
    temporary = _beside(path)
    with TensorWriter(temporary, tensors, kept) as writer:
        writer.put_all(tensors)
        writer.finish(kept)
    temporary.replace(path)


def captions() -> tuple[str, ...]:
    """Return what the models know, and what no LoRA is judged by."""
    return tuple(CAPTIONS.read_text(encoding="utf-8").splitlines())


def read_packed(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors that a packed file holds itself, and its metadata. Raises LoraxError if it is damaged."""
    metadata = _metadata(path)
    with reading(path, "a packed safetensors file"), _unpacked(path) as content:
        stored = load(content.read())
    own = {key: _scaled(value, stored.get(f"{key}{SCALE}")) for key, value in stored.items() if not key.endswith(SCALE)}
    return own, metadata


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


def _metadata(packed: Path) -> dict[str, str]:
    """Return the metadata of a packed file, of which only the header is unpacked."""
    with reading(packed, "a packed safetensors file"), _unpacked(packed) as content:
        size = int.from_bytes(content.read(8), "little")
        return dict(json.loads(content.read(size)).get("__metadata__", {}))


def _unpacked(path: Path) -> IO[bytes]:
    """Open what is compressed in a file."""
    try:
        import lzma  # a Python can be built without it, and then everything else must work
    except ImportError as error:
        raise LoraxError(f"{path}: this Python was built without lzma, which unpacks it. Use another Python.") from error
    return lzma.open(path)


def _origin(path: Path) -> str:
    """Return the digest of what ``path`` was unpacked from."""
    origin = open_tensors(path).metadata.get(ORIGIN)
    if origin is None:
        raise LoraxError(f"{path}: exists and is not one of the bundled models. Choose another folder.")
    return origin


def _from_sibling(own: Mapping[str, torch.Tensor], metadata: Mapping[str, str], sibling: Path | None) -> dict[str, torch.Tensor]:
    """Return what a file has from its sibling, and the sums where only what is added to the sibling's tensor is its own.

    What both have are clones: one tensor of the sibling may have several names.
    """
    if sibling is None:
        return {}
    other = open_tensors(sibling)
    shared = {key: other.get(name).clone() for key, name in json.loads(metadata[SHARED]).items()}
    added = json.loads(metadata.get(ADDED, "[]"))
    return shared | {key: (other.get(key).float() + own[key].float()).to(own[key].dtype) for key in added}


def _scaled(stored: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return stored if scale is None else (stored.float() * scale.float()).to(scale.dtype)
