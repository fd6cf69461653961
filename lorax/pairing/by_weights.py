"""Pairs blocks whose weights are most alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import torch

from lorax.checkpoint import Checkpoint, by_block
from lorax.pairing.layer_pair import Pair
from lorax.reasons import Reason, Why

# A block's sketch has some 2048 values per layer: the error of a cosine is below 0.01 with a block's dozen layers. They lie in
# runs, since single values spread over a weight would have the system read all of it from the disk.
RUNS, RUN = 16, 128


def by_weights(source: Checkpoint, target: Checkpoint, s: Collection[str], t: Iterable[str]) -> dict[str, Pair]:
    """Source layer -> its pair, for the layers ``s`` of the source and ``t`` of the target.

    Blocks of the same role and shapes are assigned such that the sum of the cosines of their weights is the largest. No source
    block serves twice. Raises LoraxError if a weight that is read is not finite.
    """
    from scipy.optimize import linear_sum_assignment  # every host brings scipy; loading it is slow

    s_blocks, t_blocks = by_block(s), by_block(t)
    t_groups = _groups(target, t_blocks)
    pairs: dict[str, Pair] = {}
    for signature, s_names in _groups(source, s_blocks).items():
        t_names = t_groups.get(signature, [])
        if not t_names:
            reason = Reason(Why.NO_BLOCK_OF_THESE_SHAPES)
            pairs |= {layer: Pair(layer, None, reason) for name in s_names for layer in s_blocks[name].values()}
            continue
        s_sketch = torch.stack([_sketch(source, s_blocks[name]) for name in s_names])
        t_sketch = torch.stack([_sketch(target, t_blocks[name]) for name in t_names])
        cosine = t_sketch @ s_sketch.mT
        rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
        chosen = {int(column): int(row) for row, column in zip(rows, columns, strict=True)}
        for column, s_name in enumerate(s_names):
            row = chosen.get(column)
            if row is None:
                reason = Reason(Why.OTHER_BLOCKS_MORE_ALIKE, {"cosine": cosine[:, column].max().item()})
                inside: Mapping[str, str] = {}
            else:
                alike = {"blocks": len(s_names), "cosine": cosine[row, column].item()}
                reason, inside = Reason(Why.WEIGHTS_MOST_ALIKE, alike), t_blocks[t_names[row]]
            pairs |= {layer: Pair(layer, inside.get(path), reason) for path, layer in s_blocks[s_name].items()}
    return {layer: pairs[layer] for layer in s}


def _groups(base: Checkpoint, blocks: Mapping[str, Mapping[str, str]]) -> dict[tuple, list[str]]:
    """(side of the network, paths and shapes inside) -> blocks. Only blocks of one group can be paired."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for block, inside in blocks.items():
        side = block.split(".")[1] if len(inside) > 1 else ".".join(p for p in block.split(".") if not p.isdigit())
        signature = (side, *sorted((path, base.layers[layer]) for path, layer in inside.items()))
        groups[signature].append(block)
    return groups


def _sketch(base: Checkpoint, inside: Mapping[str, str]) -> torch.Tensor:
    """A unit vector of evenly spaced runs of a block's weights, float32. Blocks of the same shapes have comparable ones."""
    values = []
    for path in sorted(inside):
        weight = base.stored(inside[path]).flatten()
        step = max(RUN, len(weight) // RUNS)
        values.append(torch.cat([weight[start : start + RUN].float() for start in range(0, len(weight), step)]))
        base.check_finite(inside[path], values[-1])
    return torch.nn.functional.normalize(torch.cat(values), dim=0)
