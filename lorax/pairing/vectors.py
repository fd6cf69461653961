"""Norms and biases: what an adapter changes of them goes along as it is, where the target has the same parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.checkpoint.checkpoint import Checkpoint
from lorax.checkpoint.layer_names import block_of
from lorax.formats import AdapterFile
from lorax.pairing.pairs import Pair


@dataclass(frozen=True)
class Vector:
    """What becomes of one key: the parameter of the target that it is added to, or None with the reason why it is left out."""

    key: str
    layer: str  # as the adapter spells it
    target: str | None
    reason: str = ""


def pair_vectors(
    adapter: AdapterFile, source: Checkpoint, target: Checkpoint, pairs: Mapping[str, Pair], cut: bool
) -> list[Vector]:
    """The norms and biases of ``adapter``. ``pairs``: of all layers of ``source``; ``cut``: whether all ranks are limited.

    A bias goes along with a whole difference only, which is then written whole: A1111 reads it from no other format.
    """
    blocks = {block_of(pair.source): block_of(pair.target) for pair in pairs.values() if pair.target}
    found = []
    for layer, keys in adapter.vectors.items():
        for parameter, key in keys.items():
            where = source.names.get(layer) or source.norms.get(layer)
            counterpart = _counterpart(where, pairs, blocks) if where else None
            wanted = f"{counterpart}.{parameter}"
            if source.family != target.family:
                reason = "the target is of another family"
            elif where is None:
                reason = "the source has no such layer"
            elif where in pairs and not adapter.is_whole(layer):
                reason = "a bias is read beside a whole difference only"
            elif where in pairs and cut:
                reason = "a bias is read beside a whole difference only, and the largest rank asks for factors"
            elif target.vectors.get(wanted) != adapter.length(key):
                reason = "the target has no such parameter of this size"
            else:
                reason = ""
            found.append(Vector(key, layer, None if reason else wanted, reason))
    return found


def _counterpart(layer: str, pairs: Mapping[str, Pair], blocks: Mapping[str, str]) -> str | None:
    """The target's layer for a source's. A norm, which is not paired itself, follows its block."""
    if layer in pairs:
        return pairs[layer].target
    block = block_of(layer)
    return layer if block == layer else f"{blocks[block]}{layer[len(block) :]}" if block in blocks else None
