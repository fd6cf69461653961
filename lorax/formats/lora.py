"""LoRA and LoCon: ``scale * up @ down``, with an optional middle convolution (Tucker decomposition).

The parts have four spellings: kohya's, PEFT's, and two of diffusers'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from lorax.adapter import LowRank
from lorax.errors import LoraxError

UP, DOWN, MID, ALPHA = "up", "down", "mid", "alpha"
LARGEST = 2.0**60  # the product of two such values is finite in float32, with room for the sum
SUFFIXES = {
    ".lora_up.weight": UP,
    ".lora_down.weight": DOWN,
    ".lora_mid.weight": MID,
    ".lora_B.weight": UP,
    ".lora_A.weight": DOWN,
    ".lora_B.default.weight": UP,
    ".lora_A.default.weight": DOWN,
    ".lora.up.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".alpha": ALPHA,
}
# diffusers before 0.22 kept LoRA layers beside an attention's own: in its processor, or in the text encoder's attention itself.
OLD_NAMES = {
    **{f".processor.to_{x}_lora.": f".to_{x}.lora." for x in "qkv"},
    ".processor.to_out_lora.": ".to_out.0.lora.",
    **{f".self_attn.to_{x}_lora.": f".self_attn.{x}_proj.lora." for x in ("q", "k", "v", "out")},
}


def split(key: str) -> tuple[str, str] | None:
    """(layer name, part) of a key that this format owns, or None. An old name is given as today's."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    for suffix, part in SUFFIXES.items():
        if key.endswith(suffix):
            return key[: -len(suffix)], part
    return None


def check(where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise LoraxError unless the parts of one layer fit together. ``where`` names the file and the layer."""
    for part in (UP, DOWN):
        if part not in shapes:
            raise LoraxError(f"{where}: the {part} factor is missing. The file is incomplete; download or export it again.")
        if len(shapes[part]) not in (2, 4):
            raise LoraxError(f"{where}: the {part} factor has shape {shapes[part]}; expected 2 or 4 dimensions.")
    up, down, mid = shapes[UP], shapes[DOWN], shapes.get(MID)
    if 0 in up + down:
        raise LoraxError(f"{where}: a factor is empty: up {up}, down {down}. The file is damaged; export it again.")
    for part in (UP, DOWN) if mid else (UP,):
        if any(size != 1 for size in shapes[part][2:]):
            raise LoraxError(f"{where}: the {part} factor has shape {shapes[part]}; expected a kernel of 1 by 1.")
    if math.prod(shapes.get(ALPHA, ())) != 1:
        raise LoraxError(f"{where}: alpha has shape {shapes[ALPHA]}; expected one number.")
    inner = (up[1], mid[0]) if mid and len(mid) == 4 else (up[1], down[0])
    outer = (mid[1], down[0]) if mid and len(mid) == 4 else (1, 1)
    if inner[0] != inner[1] or outer[0] != outer[1] or (mid and len(mid) != 4):
        raise LoraxError(f"{where}: the ranks disagree: up {up}, down {down}" + (f", mid {mid}." if mid else "."))


def shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """(m, n) of the delta, from the shapes of its parts."""
    down, mid = shapes[DOWN], shapes.get(MID)
    kernel = (mid or down)[2:]
    return shapes[UP][0], down[1] * torch.Size(kernel).numel()


def decode(where: str, get: Callable[[str], torch.Tensor], parts: Mapping[str, str], default_alpha: float | None) -> LowRank:
    """The delta of one layer. ``parts`` maps a part to its key; ``get`` reads a key.

    The scale is alpha / rank, and 1 when neither the file nor its configuration gives an alpha (A1111, ``network.py``).
    """
    tensors = {part: get(key).float() for part, key in parts.items()}
    for part, tensor in tensors.items():
        if not (tensor.abs() <= LARGEST).all():  # NaN is not either
            raise LoraxError(
                f"{where}: the {part} part holds NaN or infinite values, or some beyond {LARGEST:.0e}. "
                "The file is damaged or training diverged."
            )
    up, down = tensors[UP].flatten(1), tensors[DOWN]
    rank = down.shape[0]
    if MID in tensors:
        # dW[o, i, h, w] = up[o, p] mid[p, q, h, w] down[q, i]: fold mid into down, and the delta stays of rank p.
        down = torch.einsum("pqhw,qi->pihw", tensors[MID], down.flatten(1))
    alpha = tensors[ALPHA].item() if ALPHA in tensors else default_alpha
    return LowRank(up, down.flatten(1), 1.0 if alpha is None else alpha / rank)
