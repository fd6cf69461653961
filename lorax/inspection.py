"""Tells what a file is: a base or an adapter, its family, its layers and its ranks."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from lorax.checkpoint import Checkpoint, block_of, families, open_checkpoint, prediction_in
from lorax.errors import LoraxError, NotAnAdapter, UnsupportedFamily
from lorax.formats import AdapterFile, kind, open_adapter, ranks

FIRST, PLAIN = "unet.input_blocks.0.0", 4  # the first convolution, and its usual inputs: the channels of the latents
MADE_FOR = {5: "depth", 8: "instruct-pix2pix", 9: "inpainting"}


def inspect(path: Path) -> dict[str, Any]:
    """Return facts about a base or an adapter, from its header alone. Raises LoraxError if it is neither, or damaged."""
    try:
        return _base(open_checkpoint(path))
    except UnsupportedFamily as base:
        return {"kind": "base", "family": base.title, "status": "not supported"}
    except LoraxError as not_a_base:
        try:
            return _adapter(open_adapter(path))
        except NotAnAdapter as error:  # other errors name what the file is, or say that it cannot be read
            raise LoraxError(f"{error}\nNor is it a base: {not_a_base}") from error


def _base(base: Checkpoint) -> dict[str, Any]:
    components = {c.name: sum(layer.startswith(f"{c.name}.") for layer in base.layers) for c in base.family.components}
    return {
        "kind": "base",
        "family": base.family.title,
        "blocks": "standard" if _is_standard(base) else "pruned or otherwise changed",
        **_inputs(base),
        "prediction": base.prediction or "not told by the file",
        **({"noise schedule": "zero terminal SNR"} if base.has_zero_snr else {}),
        "layers": components,
    }


def _inputs(base: Checkpoint) -> dict[str, str]:
    """Return the task of a UNet with more inputs than the picture's latents; empty for a usual UNet."""
    channels = base.layers.get(FIRST, (0, PLAIN))[1]
    return {} if channels == PLAIN else {"made for": f"{MADE_FOR.get(channels, 'a task of its own')} ({channels} input channels)"}


def _is_standard(base: Checkpoint) -> bool:
    """Tell whether all blocks of the family are there. In SDXL all attention modules of a level have the same depth."""
    if not base.family.signs.deep:
        return base.unet_names.is_standard()
    depths: dict[str, list[int]] = defaultdict(list)  # level -> transformer blocks of each of its attention modules
    blocks = dict.fromkeys(block_of(layer).removeprefix("unet.") for layer in base.layers if ".transformer_blocks." in layer)
    for module, depth in Counter(block.partition(".transformer_blocks.")[0] for block in blocks).items():
        depths[base.unet_names.to_diffusers(module).partition(".attentions.")[0]].append(depth)
    down = {int(level.rpartition(".")[2]): of[0] for level, of in depths.items() if level.startswith("down_blocks.")}
    expected = {"mid_block": [down[max(down)] if down else 0]}
    for level, depth in down.items():
        expected |= {f"down_blocks.{level}": [depth] * 2, f"up_blocks.{base.unet_names.levels - 1 - level}": [depth] * 3}
    return depths == expected


def _family(adapter: AdapterFile) -> str:
    """Return the title of the family that the layers or else the metadata tell."""
    if adapter.family:
        return adapter.family.title
    family = families.named_in(adapter.metadata)
    return f"{family.title}, by its metadata" if family else "not told by its layers"


def _adapter(adapter: AdapterFile) -> dict[str, Any]:
    return {
        "kind": kind(adapter),
        "family": _family(adapter),
        "layers": len(adapter.layers),
        "ranks": {str(rank): count for rank, count in sorted(ranks(adapter).items())},
        **({"prediction": predicts} if (predicts := prediction_in(adapter.metadata)) else {}),
        **({"embeddings": adapter.embeddings} if adapter.embeddings else {}),
        "metadata": adapter.metadata,
    }
