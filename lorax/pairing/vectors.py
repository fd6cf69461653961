"""Pairs norms and biases. An adapter's changes of them are moved as they are if the target has the same parameter."""

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.checkpoint import Checkpoint, block_of
from lorax.formats import AdapterFile
from lorax.pairing.shared_inputs import Pair
from lorax.reasons import Reason, Why


@dataclass(frozen=True)
class Vector:
    """A key of the adapter with the target's parameter that it is added to; None, with a reason, if it is left out."""

    key: str
    layer: str  # as the adapter spells it
    target: str | None
    reason: Reason | None = None


def pair_vectors(
    adapter: AdapterFile, source: Checkpoint, target: Checkpoint, pairs: Mapping[str, Pair], cut: bool
) -> list[Vector]:
    """Return the adapter's norms and biases with their targets. ``pairs``: those of all layers; ``cut``: if ranks are limited.

    A bias is moved only with a whole difference, which is then written whole: A1111 reads biases from no other format.
    """
    blocks = {block_of(pair.source): block_of(pair.target) for pair in pairs.values() if pair.target}
    found = []
    whole = {name for name, layer in adapter.layers.items() if layer.is_whole}
    for stored in adapter.vectors:
        on_source = source.names.get(stored.layer) or source.names.norms.get(stored.layer)
        counterpart = _counterpart(on_source, pairs, blocks) if on_source else None
        wanted = f"{counterpart}.{stored.parameter}"
        why = None
        if source.family != target.family:
            why = Why.OTHER_FAMILY
        elif on_source is None:
            why = Why.NO_LAYER_IN_SOURCE
        elif on_source in pairs and stored.layer not in whole:
            why = Why.BIAS_ALONE
        elif on_source in pairs and cut:
            why = Why.BIAS_BESIDE_FACTORS
        elif target.vectors.get(wanted) != stored.size:
            why = Why.NO_PARAMETER
        reason = Reason(why) if why else None
        found.append(Vector(stored.key, stored.layer, None if reason else wanted, reason))
    return found


def _counterpart(layer: str, pairs: Mapping[str, Pair], blocks: Mapping[str, str]) -> str | None:
    """Return the target's layer for a source's. A norm, which has no pair itself, follows its block."""
    if layer in pairs:
        return pairs[layer].target
    block = block_of(layer)
    return layer if block == layer else f"{blocks[block]}{layer[len(block) :]}" if block in blocks else None
