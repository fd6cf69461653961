"""Which source layer feeds which target layer, and why. Needs no decomposition: names, shapes and plain cosines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import torch

from lorax.checkpoint.checkpoint import Checkpoint
from lorax.checkpoint.layer_names import PROJECTION, block_of
from lorax.errors import LoraxError
from lorax.pairing.by_place import Columns, by_place, shared_inputs

PAIRINGS = ("auto", "name", "weights")
# A block's sketch has some 2048 values per layer: the error of a cosine is below 0.01 with a block's dozen layers. They lie in
# runs, since single values spread over a weight would have the system read all of it from the disk.
RUNS, RUN = 16, 128


@dataclass(frozen=True)
class Pair:
    """A source layer, the target layer that it feeds (None: there is none) and the reason in words.

    ``columns``: the inputs that mean the same to both, where not all do. Only the delta on these is moved.
    """

    source: str
    target: str | None
    reason: str
    columns: Columns | None = None


def pair(source: Checkpoint, target: Checkpoint, how: str = "auto") -> dict[str, Pair]:
    """Source layer -> its pair, for all layers of ``source``.

    By name where the structures agree. Where they do not, the block of the same role and shapes whose weights are most alike
    (cosine), found by an assignment in which no source block serves twice; between UNets of different families, the block at the
    same place. ``auto`` chooses, for each component. Text encoders are paired with those of the same kind only.
    """
    if how not in PAIRINGS:
        raise LoraxError(f"pairing {how!r}: expected one of {', '.join(PAIRINGS)}.")
    pairs: dict[str, Pair] = {}
    twins = {component.title: component.name for component in target.family.components}
    for component in source.family.components:
        s, t = _layers(source, component.name), _layers(target, twins.get(component.title, ""))
        s_names, t_names = _spelled(source, s), _spelled(target, t)
        agree = s_names.keys() - {PROJECTION} == t_names.keys() - {PROJECTION}
        if not t:
            reason = f"the target has no {component.title}"
            pairs |= {layer: Pair(layer, None, reason) for layer in s}
        elif how == "name" or (how == "auto" and agree):
            for name, layer in s_names.items():
                match = t_names.get(name)
                pairs[layer] = Pair(layer, match, "same name" if match else "the target has no layer of this name")
        elif how == "auto" and component.name == "unet" and source.family != target.family:
            pairs |= {layer: Pair(layer, *found) for layer, found in by_place(source, target, s, t).items()}
        else:
            pairs |= _by_weights(source, target, s, t)
    return {layer: _narrowed(source, target, one) for layer, one in pairs.items()}


def _layers(base: Checkpoint, component: str) -> list[str]:
    return [layer for layer in base.layers if layer.startswith(f"{component}.")]


def _spelled(base: Checkpoint, layers: list[str]) -> dict[str, str]:
    """Path within the component, as diffusers spells it -> layer: by this, adapters are copied from base to base in practice."""
    names = {}
    for layer in layers:
        head, _, path = layer.partition(".")
        names[base.unet_names.to_diffusers(path) if head == "unet" else path] = layer
    return names


def _narrowed(source: Checkpoint, target: Checkpoint, found: Pair) -> Pair:
    """With the inputs that mean the same, where not all do."""
    columns = shared_inputs(source, found.source, target, found.target) if found.target else None
    return replace(found, columns=columns, reason=f"{found.reason}, on {columns.meaning}") if columns else found


def _by_weights(source: Checkpoint, target: Checkpoint, s: list[str], t: list[str]) -> dict[str, Pair]:
    from scipy.optimize import linear_sum_assignment  # every host brings scipy; loading it is slow

    s_blocks, t_blocks = _blocks(s), _blocks(t)
    s_groups, t_groups = _groups(source, s_blocks), _groups(target, t_blocks)
    pairs = {layer: Pair(layer, None, "no block of the target in this role has the same layers and shapes") for layer in s}
    for signature, s_names in s_groups.items():
        t_names = t_groups.get(signature, [])
        if not t_names:
            continue
        s_sketch = torch.stack([_sketch(source, s_blocks[name]) for name in s_names])
        t_sketch = torch.stack([_sketch(target, t_blocks[name]) for name in t_names])
        cosine = t_sketch @ s_sketch.mT
        rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
        chosen = {int(column): int(row) for row, column in zip(rows, columns, strict=True)}
        for column, s_name in enumerate(s_names):
            for inner, layer in s_blocks[s_name].items():
                if column in chosen:
                    row = chosen[column]
                    reason = f"weights most alike of {len(s_names)} blocks (cosine {cosine[row, column]:.2f})"
                    pairs[layer] = Pair(layer, t_blocks[t_names[row]][inner], reason)
                else:
                    best = cosine[:, column].max().item()
                    pairs[layer] = Pair(
                        layer, None, f"the target's blocks are more like other blocks (cosine at most {best:.2f})"
                    )
    return pairs


def _blocks(layers: list[str]) -> dict[str, dict[str, str]]:
    """Block -> path inside it -> layer."""
    blocks: dict[str, dict[str, str]] = defaultdict(dict)
    for layer in layers:
        block = block_of(layer)
        blocks[block][layer[len(block) :]] = layer
    return blocks


def _groups(base: Checkpoint, blocks: dict[str, dict[str, str]]) -> dict[tuple, list[str]]:
    """(side of the network, paths and shapes inside) -> blocks: only blocks of one group can be paired."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for block, inside in blocks.items():
        side = block.split(".")[1] if len(inside) > 1 else ".".join(p for p in block.split(".") if not p.isdigit())
        signature = (side, *sorted((inner, base.layers[layer]) for inner, layer in inside.items()))
        groups[signature].append(block)
    return groups


def _sketch(base: Checkpoint, inside: dict[str, str]) -> torch.Tensor:
    """A unit vector of evenly spaced runs of weights, comparable between blocks of the same shapes; reads little of the file."""
    values = []
    for inner in sorted(inside):
        weight = base.stored(inside[inner]).flatten()
        step = max(RUN, len(weight) // RUNS)
        values.append(torch.cat([weight[start : start + RUN].float() for start in range(0, len(weight), step)]))
        base.check_finite(inside[inner], values[-1])
    return torch.nn.functional.normalize(torch.cat(values), dim=0)
