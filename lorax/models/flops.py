"""What it takes to run a base once, told by its header alone: floating-point operations, parameters, values that are held."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lorax.checkpoint import DEFAULT_CONFIGS, SD1, SDXL, Checkpoint, ModelConfig, UNetNames, config_of
from lorax.errors import LoraxError

TOKENS = 77  # of a prompt
PIXELS = 8  # of a picture for one value of the latents, a side
AUTOENCODER = "first_stage_model."


@dataclass(frozen=True)
class Layer:
    """A product with a weight (out, channels * taps), at so many positions of one sample."""

    out: int
    channels: int
    taps: int  # of a convolution's kernel
    positions: int

    @property
    def parameters(self) -> int:
        return self.out * self.channels * self.taps

    @property
    def operations(self) -> float:
        return 2.0 * self.parameters * self.positions

    @property
    def values(self) -> int:
        """That it takes and gives for one sample."""
        return (self.out + self.channels) * self.positions


@dataclass(frozen=True)
class Operations:
    """Of one sample, at the size at home in the base. ``decode`` and ``read`` are the autoencoder's, 0 where it is elsewhere."""

    size: int  # of the latents, a side
    predict: float
    encode: float  # a prompt
    decode: float
    read: float
    layers: dict[str, Layer]  # of the UNet and the text encoders

    @property
    def width(self) -> float:
        """The narrower side of the UNet's weights, by where its operations are: narrow products keep a device less busy."""
        unet = [layer for name, layer in self.layers.items() if name.startswith("unet.")]
        return sum(layer.operations * min(layer.out, layer.channels) for layer in unet) / sum(layer.operations for layer in unet)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers.values())


def operations(base: Checkpoint) -> Operations:
    settings = _settings(base)
    layers, size = dict(_layers(base, settings.size)), settings.size
    unet = {name: layer for name, layer in layers.items() if name.startswith("unet.")}
    texts = [layer for name, layer in layers.items() if name not in unet]
    decode, read = (sum(layer.operations for layer in _autoencoder(base, size, side)) for side in ("decoder", "encoder"))
    return Operations(
        size,
        sum(layer.operations for layer in unet.values()) + sum(_attention(name, layer, unet) for name, layer in unet.items()),
        sum(layer.operations for layer in texts),
        decode,
        read,
        layers,
    )


def _settings(base: Checkpoint) -> ModelConfig:
    """Of a base that cannot be run here, what is usual in its family: its refiner is as SDXL, SD 2.x as 1.x."""
    try:
        return config_of(base.unet_file, base.family.name)
    except LoraxError:
        return DEFAULT_CONFIGS[SDXL.name if base.family.signs.deep else SD1.name]


def _layers(base: Checkpoint, size: int) -> Iterator[tuple[str, Layer]]:
    names = {
        layer: base.unet_names.to_diffusers(layer.removeprefix("unet.")) for layer in base.layers if layer.startswith("unet.")
    }
    for name, (out, channels, *kernel) in base.layers.items():
        text = 1 if name.endswith("text_projection") else TOKENS
        positions = _positions(base.unet_names, names[name], size) if name in names else text
        yield name, Layer(out, channels, math.prod(kernel), positions)


def _positions(names: UNetNames, name: str, size: int) -> int:
    """Where a layer of the UNet computes, by diffusers' name of it."""
    if name.startswith(("time_embedding.", "add_embedding.")) or name.endswith("time_emb_proj"):
        return 1
    if re.search(r"attn2\.to_[kv]$", name):
        return TOKENS
    level = names.level_of(name) + (".downsamplers." in name) - (".upsamplers." in name)
    return math.ceil(size / 2**level) ** 2


def _attention(name: str, q: Layer, unet: dict[str, Layer]) -> float:
    """Of the products between queries and keys, and between weights and values; 0 for a layer that makes no queries."""
    if not name.endswith(".to_q"):
        return 0.0
    k = unet.get(name.removesuffix("q") + "k", q)  # a damaged base may lack it
    return 4.0 * q.positions * k.positions * q.out


def _autoencoder(base: Checkpoint, size: int, side: str) -> Iterator[Layer]:
    """Of one side, by LDM's names: level 0 is that of the pixels on both."""
    prefix = f"{AUTOENCODER}{side}."
    levels = 1 + int(math.log2(PIXELS))
    for key, shape in base.unet_file.shapes.items():
        if not key.startswith(prefix) or len(shape) < 2:
            continue
        found = re.match(r"(?:up|down)\.(\d)\.(\w+)", path := key.removeprefix(prefix))
        level = int(found[1]) if found else 0 if path.startswith("conv_" + ("out" if side == "decoder" else "in")) else levels - 1
        if found and found[2] in ("downsample", "upsample"):
            level = max(0, level + (1 if found[2] == "downsample" else -1))
        positions = (PIXELS * size >> level) ** 2
        yield Layer(shape[0], shape[1], math.prod(shape[2:]), positions)
        if path == "mid.attn_1.q.weight":
            yield Layer(2 * shape[0], positions, 1, positions)  # its two products
