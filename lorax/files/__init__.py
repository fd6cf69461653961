"""Reads and writes files: tensors that are mapped from disk, hashes, files that appear together, and a cache."""

from lorax.files.cache import Cache, Entry
from lorax.files.hashing import Hashes, hashes, legacy_hash
from lorax.files.outline import Outline, outline
from lorax.files.staging import Inputs, Staging, check_folder, check_free, is_same_name
from lorax.files.tensors import Part, Stamp, TensorFile, is_finite, open_tensors, stamp, title_of
from lorax.files.texts import is_file, json_object, read_json, read_yaml
from lorax.files.walking import as_utf8, files_below
from lorax.files.writer import TensorWriter

__all__ = [
    "Cache",
    "Entry",
    "Hashes",
    "Inputs",
    "Outline",
    "Part",
    "Staging",
    "Stamp",
    "TensorFile",
    "TensorWriter",
    "as_utf8",
    "check_folder",
    "check_free",
    "files_below",
    "hashes",
    "is_file",
    "is_finite",
    "is_same_name",
    "json_object",
    "legacy_hash",
    "open_tensors",
    "outline",
    "read_json",
    "read_yaml",
    "stamp",
    "title_of",
]
