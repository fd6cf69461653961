"""Reads adapter files. Each format is a module, which declares the parts of its layers."""

from lorax.formats import loraxfile, sidecars, small
from lorax.formats.adapter_file import AdapterFile
from lorax.formats.keys import split
from lorax.formats.loraxfile import Header
from lorax.formats.opening import open_adapter
from lorax.formats.summary import kind, ranks, trigger_phrase, trigger_words

__all__ = [
    "AdapterFile",
    "Header",
    "kind",
    "loraxfile",
    "open_adapter",
    "ranks",
    "sidecars",
    "small",
    "split",
    "trigger_phrase",
    "trigger_words",
]
