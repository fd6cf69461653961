"""Adapter files: one module a format, each of which declares the parts of a layer that it owns."""

from lorax.formats.reader import AdapterFile, open_adapter

__all__ = ["AdapterFile", "open_adapter"]
