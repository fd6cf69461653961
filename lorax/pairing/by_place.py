"""Which blocks of two UNets of different families have the same place, and which inputs of two layers mean the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lorax.checkpoint.checkpoint import Checkpoint
from lorax.checkpoint.layer_names import block_of
from lorax.low_rank import LowRank

LATENT = 4  # channels of the picture, which come first; inpainting's mask and masked picture, or the original, follow


@dataclass(frozen=True)
class Columns:
    """Inputs that mean the same to both layers: columns of the source's weight as a matrix, and of the target's."""

    source: slice
    target: slice
    meaning: str

    def narrowed(self, dW: LowRank) -> LowRank:
        """What the source's delta does with these inputs."""
        return LowRank(dW.up, dW.down[:, self.source], dW.scale)

    def widened(self, dW: LowRank, columns: int) -> LowRank:
        """The delta for all ``columns`` inputs of the target; with the others it does nothing."""
        down = dW.down.new_zeros(dW.rank, columns)
        down[:, self.target] = dW.down
        return LowRank(dW.up, down, dW.scale)


def shared_inputs(source: Checkpoint, s: str, target: Checkpoint, t: str) -> Columns | None:
    """Of two layers with unlike inputs, or None if all inputs are alike or none are known to be.

    Cross-attention's inputs are those of the text encoders, one beside the other: the first 768 of SDXL's 2048 are CLIP ViT-L's,
    which are all of SD 1.x's, and the last 1280 OpenCLIP ViT-bigG's, which are all of the refiner's.
    """
    (_, n_s), (_, n_t) = source.matrix(s), target.matrix(t)
    if n_s == n_t:
        return None
    if re.search(r"\.attn2\.to_[kv]$", s):
        of_s, of_t = source.family.context, target.family.context
        common, width = [encoder for encoder in of_s if encoder in of_t], min(n_s, n_t)
        if len(common) != 1 or len(of_s) == len(of_t):
            return None
        (encoder,) = common
        return Columns(_run(of_s, encoder, n_s, width), _run(of_t, encoder, n_t, width), f"the {width} inputs of {encoder}")
    if s == t == "unet.input_blocks.0.0":
        taps = n_s // source.layers[s][1]
        latent = slice(0, LATENT * taps)
        return Columns(latent, latent, f"the {LATENT} channels of the picture") if min(n_s, n_t) >= latent.stop else None
    return None


def _run(context: tuple[str, ...], encoder: str, columns: int, width: int) -> slice:
    """Where the encoder's inputs are among ``columns``."""
    return slice(0, width) if context[0] == encoder else slice(columns - width, columns)


def by_place(source: Checkpoint, target: Checkpoint, s: Iterable[str], t: Iterable[str]) -> dict[str, tuple[str | None, str]]:
    """Source layer -> the target's layer in the same role, at the same resolution and relative depth, and the reason in words.

    No source block serves twice: where the target has more blocks at a place, those between are fed by none.
    """
    s_places, t_places = _places(source, s), _places(target, t)
    found: dict[str, tuple[str | None, str]] = {}
    for place, s_blocks in s_places.items():
        t_blocks = t_places.get(place, [])
        matches = _spread(len(s_blocks), len(t_blocks))
        for number, inside in enumerate(s_blocks):
            if (match := matches.get(number)) is None:
                lack = "fewer blocks in this role at this resolution" if t_blocks else "no block in this role at this resolution"
                found |= dict.fromkeys(inside.values(), (None, f"the target has {lack}"))
                continue
            reason = f"same role, resolution and depth (block {number + 1} of {len(s_blocks)} to {match + 1} of {len(t_blocks)})"
            for inner, layer in inside.items():
                there = t_blocks[match].get(inner)
                found[layer] = (there, reason if there else "the target's block in its place has no such layer")
    return found


def _spread(sources: int, targets: int) -> dict[int, int]:
    """Numbers of the blocks that belong together by relative depth: the fewer ones, and as many of the others."""
    few, many = sorted((sources, targets))
    spread = [(number, (2 * number + 1) * many // (2 * few)) for number in range(few)]
    return dict(spread if sources <= targets else [(b, a) for a, b in spread])


def _places(base: Checkpoint, layers: Iterable[str]) -> dict[tuple, list[dict[str, str]]]:
    """(side, resolution, role) -> the blocks there in the order in which the picture passes them, each: path inside -> layer."""
    levels = 1 + max(int(name.split(".")[1]) for name in base.unet_names.blocks.values() if name.startswith("down_blocks."))
    blocks: dict[str, dict[str, str]] = defaultdict(dict)
    for layer in layers:
        block = block_of(layer)
        blocks[block][layer[len(block) :]] = layer
    places: dict[tuple, list[dict[str, str]]] = defaultdict(list)
    for block in sorted(blocks, key=_natural):
        inside = blocks[block]
        path = next(iter(inside.values())).removeprefix("unet.")
        side, *rest = base.unet_names.to_diffusers(path).split(".")
        if side not in ("down_blocks", "up_blocks", "mid_block"):
            places[path, 0, ""].append(inside)
            continue
        level = int(rest.pop(0)) if side != "mid_block" else 0
        resolution = levels - 1 - level if side == "up_blocks" else level
        role = "transformer_blocks" if ".transformer_blocks." in block else rest[0]
        places[side, resolution, role].append(inside)
    return places


def _natural(block: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in block.split(".")]
