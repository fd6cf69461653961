"""LoRA-X files: adapters that are fitted to the loaded checkpoint of their family.

A file holds the factors for the checkpoint that the adapter was trained on, or the small form of these
(``lorax/formats/small.py``). Layers are named as in a plain LoRA; parts have other names, so that readers of plain LoRAs do not
apply them by mistake. The header tells how to fit them to another checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.checkpoint import Family, families
from lorax.errors import LoraxError, reading
from lorax.files import TensorFile, json_object
from lorax.formats import lora, small

FORMAT = 1
MARK = "lorax_format"  # of the metadata that makes a file one of these
PREFIX = "lorax_"  # begins the names of parts in all versions, so that an older reader recognises a newer file
SUFFIXES = tuple(end for end in (*lora.SUFFIXES, *small.SUFFIXES) if end.startswith(f".{PREFIX}"))


@dataclass(frozen=True)
class Header:
    """The metadata of a LoRA-X file."""

    family: Family
    source: str  # file name
    source_sha256: str
    fingerprint: str  # of the source's layers that the adapter changes
    method: str
    settings: Mapping[str, Any]
    core: str = ""  # "diagonal" or "full" if the adapter was trained in the source's leading subspaces

    @property
    def named_source(self) -> str:
        """The source's name and hash, for messages."""
        return f"{self.source} (sha256 {self.source_sha256[:10]})"

    def as_metadata(self) -> dict[str, str]:
        return {
            MARK: str(FORMAT),
            "lorax_family": self.family.name,
            "lorax_source_model": self.source,
            "lorax_source_model_hash": self.source_sha256,
            "lorax_source_fingerprint": self.fingerprint,
            "lorax_method": self.method,
            "lorax_settings": json.dumps(self.settings),
            **({"lorax_core": self.core} if self.core else {}),
        }


def is_ours(file: TensorFile) -> bool:
    """Tell whether the file is a LoRA-X file of any version, complete or not."""
    return MARK in file.metadata or any(key.endswith(SUFFIXES) for key in file.shapes)


def read_header(path: Path, metadata: Mapping[str, str]) -> Header:
    """Return the header in a LoRA-X file's metadata. Raises LoraxError if it is damaged, or its version or family is unknown."""
    with reading(path, "a LoRA-X file", "The header of this LoRA-X file is damaged: save it again."):
        version = int(metadata[MARK])
        if version > FORMAT:
            raise LoraxError(
                f"{path}: a LoRA-X file of format {version}; this version reads up to format {FORMAT}. Update the extension."
            )
        family = families.of_name(metadata["lorax_family"])
        if family is None:
            raise LoraxError(
                f"{path}: made for the family {metadata['lorax_family']!r}, which is not known. Update the extension."
            )
        names = ("lorax_source_model", "lorax_source_model_hash", "lorax_source_fingerprint", "lorax_method")
        source, sha256, fingerprint, method = (metadata[name] for name in names)
        settings = json_object(path, metadata["lorax_settings"], "lorax_settings of a LoRA-X file")
    return Header(family, source, sha256, fingerprint, method, settings, metadata.get("lorax_core", ""))
