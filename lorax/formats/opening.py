"""Opens adapter files and PEFT folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorax.checkpoint import families
from lorax.errors import LoraxError, NotAnAdapter, reading
from lorax.files import is_file, json_object, open_tensors, read_json
from lorax.formats import keys
from lorax.formats.adapter_file import AdapterFile
from lorax.formats.configuration import Configuration

PEFT_SETTINGS = "a PEFT configuration"
PEFT_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin")


def open_adapter(path: Path | str, sha256: str | None = None) -> AdapterFile:
    """Open an adapter file or a PEFT folder by its header. ``sha256``: that of the file with the tensors, if it is known.

    Raises NotAnAdapter, or LoraxError if it is damaged or unsupported.
    """
    with reading(path, "an adapter"):
        return _open(Path(path), sha256)


def _open(path: Path, sha256: str | None) -> AdapterFile:
    given = path
    if given.is_dir():
        given = given.absolute()  # ``.`` has no name
        found = next((given / name for name in PEFT_FILES if (given / name).is_file()), None)
        if found is None:
            raise NotAnAdapter(f"{given}: no adapter in this folder; expected {PEFT_FILES[0]} or {PEFT_FILES[1]}.")
        path = found
    file = open_tensors(path)
    if any(key.startswith(families.UNET.checkpoint) and keys.owned(key, file) is None for key in file.shapes):
        raise LoraxError(f"{path}: a base checkpoint, not a LoRA. Give it as --source or --target.")
    if not file.shapes:
        raise NotAnAdapter(f"{path}: holds no tensors; expected a LoRA.")
    return AdapterFile(given, file, Configuration(path, _settings(path, file.metadata)), sha256)


def _settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return PEFT's configuration of a file: in its metadata (diffusers 0.34 and newer), else beside it, by PEFT's names."""
    if "lora_adapter_metadata" in metadata:
        return json_object(path, metadata["lora_adapter_metadata"], PEFT_SETTINGS)
    config = path.with_name("adapter_config.json")
    return read_json(config, PEFT_SETTINGS) if path.name in PEFT_FILES and is_file(config) else {}
