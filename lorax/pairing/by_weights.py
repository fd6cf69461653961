"""Pairs blocks whose weights are most similar."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import torch

from lorax.checkpoint import Checkpoint, by_block
from lorax.pairing.shared_inputs import Pair
from lorax.reasons import Reason, Why

# A sketch has some 2048 values per layer, so the error of a cosine is below 0.01 for a block of a dozen layers. The values are in
# runs, since scattered ones would make the system read the whole weight from the disk.
RUNS, RUN = 16, 128


def by_weights(source: Checkpoint, target: Checkpoint, s: Collection[str], t: Iterable[str]) -> dict[str, Pair]:
    """Return the pairs by source layer, for the layers ``s`` of the source and ``t`` of the target.

    Blocks of the same role and shapes are assigned to each other so that the sum of the cosines of their weights is largest.
    Raises LoraxError if a weight that is read is not finite.
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
    """Return groups of blocks that can be paired, by the side of the network and the paths and shapes inside."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for block, inside in blocks.items():
        side = block.split(".")[1] if len(inside) > 1 else ".".join(p for p in block.split(".") if not p.isdigit())
        signature = (side, *sorted((path, base.layers[layer]) for path, layer in inside.items()))
        groups[signature].append(block)
    return groups


def _sketch(base: Checkpoint, inside: Mapping[str, str]) -> torch.Tensor:
    """Return a unit vector, float32, of evenly spaced runs of a block's weights. Sketches of equal shapes are comparable."""
    values = []
    for path in sorted(inside):
        weight = base.stored(inside[path]).flatten()
        step = max(RUN, len(weight) // RUNS)
        values.append(torch.cat([weight[start : start + RUN].float() for start in range(0, len(weight), step)]))
        base.check_finite(inside[path], values[-1])
    return torch.nn.functional.normalize(torch.cat(values), dim=0)
