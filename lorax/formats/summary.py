"""Facts about a whole adapter: its kind, its ranks and its trigger words."""

from collections import Counter

from lorax.formats import sidecars
from lorax.formats.adapter_file import AdapterFile


def kind(adapter: AdapterFile) -> str:
    """Return the title of the adapter's format, or the titles of its layers' formats, the commonest first."""
    if adapter.header is not None:
        return "LoRA-X"
    titles = Counter(layer.title for layer in adapter.layers.values())
    return ", ".join(title for title, _ in titles.most_common())


def ranks(adapter: AdapterFile) -> Counter[int]:
    """Count the layers by rank. Layers of a format without ranks are not counted."""
    return Counter(layer.rank for layer in adapter.layers.values() if layer.rank is not None)


def trigger_words(adapter: AdapterFile) -> str:
    """Return the adapter's trigger words from its card, else from Civitai's file, else from its metadata."""
    return sidecars.read(adapter.path).trigger_words or adapter.metadata.get("modelspec.trigger_phrase", "")
