"""Adapter files: one module a format, each of which declares the parts of a layer that it owns."""

from lorax.formats import sidecars
from lorax.formats.reader import AdapterFile, open_adapter


def trigger_words(adapter: AdapterFile) -> str:
    """Temporary."""
    return sidecars.read(adapter.path).trigger_words or adapter.metadata.get("modelspec.trigger_phrase", "")


__all__ = ["AdapterFile", "open_adapter", "trigger_words"]
