"""LoRA and LoCon: ``scale * up @ down``, with an optional middle convolution (Tucker decomposition)."""

import math

from lorax.errors import LoraxError
from lorax.formats import parts
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "LoRA"
ON_BASE = False
LOW_RANK = True
UP, DOWN, MID = "up", "down", "mid"
SPELLINGS = (  # of up and down
    ("lora_up", "lora_down"),  # kohya
    ("lora_B", "lora_A"),  # PEFT
    ("lora_B.default", "lora_A.default"),  # PEFT
    ("lora.up", "lora.down"),  # diffusers
    ("lora_linear_layer.up", "lora_linear_layer.down"),  # diffusers
    ("lorax_up", "lorax_down"),  # LoRA-X files
)
SUFFIXES = {".lora_mid.weight": MID} | {
    f".{name}.weight": part for spelling in SPELLINGS for name, part in zip(spelling, (UP, DOWN), strict=True)
}
# diffusers before 0.22 had an attention's LoRA layers in its processor, or in the text encoder's attention.
OLD_NAMES = {
    **{f".processor.to_{x}_lora.": f".to_{x}.lora." for x in "qkv"},
    ".processor.to_out_lora.": ".to_out.0.lora.",
    **{f".self_attn.to_{x}_lora.": f".self_attn.{x}_proj.lora." for x in ("q", "k", "v", "out")},
}


def modern(key: str) -> str:
    """Return the key in today's spelling of diffusers."""
    if "_lora." not in key:  # which all old ones have
        return key
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key


def check(where: str, shapes: Shapes) -> None:
    for part in (UP, DOWN):
        if part not in shapes:
            raise LoraxError(f"{where}: the {part} factor is missing. The file is incomplete; download or export it again.")
        if len(shapes[part]) not in (2, 4):
            raise LoraxError(f"{where}: the {part} factor has shape {shapes[part]}; expected 2 or 4 dimensions.")
    up, down, mid = shapes[UP], shapes[DOWN], shapes.get(MID)
    if 0 in up + down:
        raise LoraxError(f"{where}: a factor is empty: up {up}, down {down}. The file is damaged; export it again.")
    for part in (UP, DOWN) if mid is not None else (UP,):
        if any(size != 1 for size in shapes[part][2:]):
            raise LoraxError(f"{where}: the {part} factor has shape {shapes[part]}; expected a kernel of 1 by 1.")
    if mid is not None and len(mid) != 4:
        raise LoraxError(f"{where}: the mid factor has shape {mid}; expected 4 dimensions.")
    inner, outer = ((up[1], mid[0]), (mid[1], down[0])) if mid is not None else ((up[1], down[0]), (1, 1))
    if inner[0] != inner[1] or outer[0] != outer[1]:
        raise LoraxError(f"{where}: the ranks disagree: up {up}, down {down}" + (f", mid {mid}." if mid is not None else "."))


def extent(shapes: Shapes) -> Extent:
    down, mid = shapes[DOWN], shapes.get(MID)
    kernel = (down if mid is None else mid)[2:]
    return Extent(shapes[UP][0], down[1] * math.prod(kernel))


def rank(shapes: Shapes) -> int:
    return shapes[DOWN][0]


def decode(layer: Layer) -> LowRank:
    up, down = (layer.tensors[part].flatten(1) for part in (UP, DOWN))
    scale = layer.scale(len(down))
    if MID in layer.tensors:
        up, down = parts.fold(up, layer.tensors[MID], down)
    return LowRank(up, down, scale)
    return LowRank(up, down, scale)
