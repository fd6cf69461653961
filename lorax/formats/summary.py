"""Facts about a whole adapter: its kind, its ranks and its trigger words."""

import re
from collections import Counter
from collections.abc import Mapping

from lorax.formats import sidecars
from lorax.formats.adapter_file import AdapterFile
from lorax.formats.stored import StoredLayer

TAG = re.compile(r"<[^<>]*>|[<>]")


def kind(adapter: AdapterFile) -> str:
    """Return the title of the adapter's format, or the titles of its layers' formats, the commonest first."""
    if adapter.header is not None:
        return "LoRA-X"
    titles = Counter[str]()
    for layer, count in _forms(adapter):
        titles[layer.title] += count
    return ", ".join(title for title, _ in titles.most_common())


def ranks(adapter: AdapterFile) -> Counter[int]:
    """Count the layers by rank. Layers of a format without ranks are not counted."""
    found = Counter[int]()
    for layer, count in _forms(adapter):
        if layer.rank is not None:
            found[layer.rank] += count
    return found


def trigger_words(adapter: AdapterFile) -> str:
    """Return the adapter's trigger words from its card, else from Civitai's file, else from its metadata."""
    return sidecars.read(adapter.path).trigger_words or trigger_phrase(adapter.metadata)


def trigger_phrase(metadata: Mapping[str, str]) -> str:
    """Return the trigger words that a file's metadata tells, without tags: a stranger's would load other networks."""
    return TAG.sub("", sidecars.text(metadata.get("modelspec.trigger_phrase"))).strip()


def _forms(adapter: AdapterFile) -> list[tuple[StoredLayer, int]]:
    """Return a layer of each form, and how many layers have it: a few dozen of hundreds."""
    layers = {id(layer.shapes): layer for layer in adapter.layers.values()}
    counts = Counter(id(layer.shapes) for layer in adapter.layers.values())
    return [(layer, counts[form]) for form, layer in layers.items()]
