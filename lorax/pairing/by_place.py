"""Pairs blocks at the same place in the UNets of two families."""

from collections import defaultdict
from collections.abc import Iterable

from lorax.checkpoint import Checkpoint, by_block
from lorax.pairing.shared_inputs import Pair
from lorax.reasons import Reason, Why


def by_place(source: Checkpoint, target: Checkpoint, s: Iterable[str], t: Iterable[str]) -> dict[str, Pair]:
    """Return the pairs by source layer: target layers in the same role, at the same resolution and relative depth."""
    s_places, t_places = _places(source, s), _places(target, t)
    pairs: dict[str, Pair] = {}
    for place, s_blocks in s_places.items():
        t_blocks = t_places.get(place, [])
        matches = _spread(len(s_blocks), len(t_blocks))
        for number, inside in enumerate(s_blocks):
            if (match := matches.get(number)) is None:
                reason = Reason(Why.FEWER_BLOCKS_HERE if t_blocks else Why.NO_BLOCK_HERE)
                pairs |= {layer: Pair(layer, None, reason) for layer in inside.values()}
                continue
            counted = {"block": number + 1, "blocks": len(s_blocks), "match": match + 1, "matches": len(t_blocks)}
            for path, layer in inside.items():
                there = t_blocks[match].get(path)
                pairs[layer] = Pair(layer, there, Reason(Why.SAME_PLACE, counted) if there else Reason(Why.NO_LAYER_IN_BLOCK))
    return pairs


def _spread(sources: int, targets: int) -> dict[int, int]:
    """Return the numbers of target blocks by the numbers of source blocks at the same relative depth."""
    few, many = sorted((sources, targets))
    spread = [(number, (2 * number + 1) * many // (2 * few)) for number in range(few)]
    return dict(spread if sources <= targets else [(b, a) for a, b in spread])


def _places(base: Checkpoint, layers: Iterable[str]) -> dict[tuple, list[dict[str, str]]]:
    """Return the blocks at each place (side, level, role) in the network's order, each as path inside -> layer."""
    blocks = by_block(layers)
    places: dict[tuple, list[dict[str, str]]] = defaultdict(list)
    for block in sorted(blocks, key=_natural):
        inside = blocks[block]
        path = next(iter(inside.values())).removeprefix("unet.")
        name = base.unet_names.to_diffusers(path)
        side = name.partition(".")[0]
        if side not in ("down_blocks", "up_blocks", "mid_block"):
            places[path, 0, ""].append(inside)
            continue
        level = 0 if side == "mid_block" else base.unet_names.level_of(name)  # middles are paired at any level
        role = "transformer_blocks" if ".transformer_blocks." in block else name.split(".")[1 if side == "mid_block" else 2]
        places[side, level, role].append(inside)
    return places


def _natural(block: str) -> list[tuple[int, str]]:
    """Return a sort key by which ``input_blocks.2`` comes before ``input_blocks.10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in block.split(".")]
