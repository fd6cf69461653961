"""Facts about a whole adapter for people: its kind, its ranks and its trigger words."""

from __future__ import annotations

from collections import Counter

from lorax.formats import sidecars
from lorax.formats.adapter_file import AdapterFile


def kind(adapter: AdapterFile) -> str:
    """The title of the adapter's format. If its layers have several formats, their titles, the commonest first."""
    if adapter.header is not None:
        return "LoRA-X"
    titles = Counter(layer.title for layer in adapter.layers.values())
    return ", ".join(title for title, _ in titles.most_common())


def ranks(adapter: AdapterFile) -> Counter[int]:
    """Rank -> number of layers that have it. Layers of a format without ranks are not counted."""
    return Counter(layer.rank for layer in adapter.layers.values() if layer.rank is not None)


def trigger_words(adapter: AdapterFile) -> str:
    """The words that call the adapter in a prompt: from its card, else from Civitai's file, else from its metadata."""
    return sidecars.read(adapter.path).trigger_words or adapter.metadata.get("modelspec.trigger_phrase", "")
