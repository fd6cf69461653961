"""Finds facts about the files in a library, and the bases that adapters were trained on. What was read is kept in an index."""

from lorax.catalog.known import Survey, confirm, facts, flush, forget, keep_in, keep_sha256, known_sha256, record, seen, sha256
from lorax.catalog.origins import Origin, Origins, Sure, adapter_of, base_of
from lorax.catalog.record import Facts, FileKind, ListedFile, Named, Provenance, Record

__all__ = [
    "Facts",
    "FileKind",
    "ListedFile",
    "Named",
    "Origin",
    "Origins",
    "Provenance",
    "Record",
    "Sure",
    "Survey",
    "adapter_of",
    "base_of",
    "confirm",
    "facts",
    "flush",
    "forget",
    "keep_in",
    "keep_sha256",
    "known_sha256",
    "record",
    "seen",
    "sha256",
]
