"""Counts the floating-point operations, parameters and values of running a base, from its header alone."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lorax.checkpoint import DEFAULT_CONFIGS, PROJECTION, SD1, SDXL, Checkpoint, UNetNames, config_of
from lorax.errors import LoraxError

TOKENS = 77  # of a prompt
PIXELS = 8  # side of one latent
AUTOENCODER = "first_stage_model."


@dataclass(frozen=True)
class Layer:
    """A product with a weight (out, channels * taps), at ``positions`` positions of one sample."""

    out: int
    channels: int
    taps: int  # size of a convolution's kernel
    positions: int

    @property
    def parameters(self) -> int:
        return self.out * self.channels * self.taps

    @property
    def operations(self) -> float:
        return 2.0 * self.parameters * self.positions

    @property
    def values(self) -> int:
        """Number of inputs and outputs for one sample."""
        return (self.out + self.channels) * self.positions


@dataclass(frozen=True)
class Operations:
    """Operations for one sample at the base's usual size. The autoencoder's are 0 if the file has none."""

    size: int  # side of the latents
    predict: float  # by the UNet
    encode: float  # by the text encoders
    decode: float  # by the autoencoder
    read: float  # by the autoencoder, to encode a picture
    layers: dict[str, Layer]  # of the UNet and the text encoders
    autoencoder: list[Layer]

    @property
    def width(self) -> float:
        """Mean of the shorter side of the UNet's weights, weighted by operations. A device is slower on narrow products."""
        unet = [layer for name, layer in self.layers.items() if name.startswith("unet.")]
        return sum(layer.operations * min(layer.out, layer.channels) for layer in unet) / sum(layer.operations for layer in unet)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers.values())


def operations(base: Checkpoint) -> Operations:
    """Count the operations of a base. One that cannot be run here counts as if it had the usual size of SDXL or SD 1.x."""
    try:
        size = config_of(base.unet_file, base.family.name).size
    except LoraxError:
        size = DEFAULT_CONFIGS[SDXL.name if base.family.signs.deep else SD1.name].size
    layers = dict(_layers(base, size))
    unet = {name: layer for name, layer in layers.items() if name.startswith("unet.")}
    predict = sum(layer.operations + _attention(name, layer, unet) for name, layer in unet.items())
    encode = sum(layer.operations for name, layer in layers.items() if name not in unet)
    decoder, encoder = (list(_autoencoder(base, size, side)) for side in ("decoder", "encoder"))
    decode, read = (sum(layer.operations for layer in side) for side in (decoder, encoder))
    return Operations(size, predict, encode, decode, read, layers, [*decoder, *encoder])


def _layers(base: Checkpoint, size: int) -> Iterator[tuple[str, Layer]]:
    for name, (out, channels, *kernel) in base.layers.items():
        component, _, path = name.partition(".")
        if component == "unet":
            positions = _positions(base.unet_names, base.unet_names.to_diffusers(path), size)
        else:
            positions = 1 if path == PROJECTION else TOKENS
        yield name, Layer(out, channels, math.prod(kernel), positions)


def _positions(names: UNetNames, name: str, size: int) -> int:
    """Return the number of positions at which a layer of the UNet computes. ``name`` is diffusers'."""
    if name.startswith(("time_embedding.", "add_embedding.")) or name.endswith("time_emb_proj"):
        return 1
    if re.search(r"attn2\.to_[kv]$", name):
        return TOKENS
    level = names.level_of(name) + (".downsamplers." in name) - (".upsamplers." in name)
    return math.ceil(size / 2**level) ** 2


def _attention(name: str, q: Layer, unet: dict[str, Layer]) -> float:
    """Count the products of queries with keys, and of weights with values; 0 if the layer does not make queries."""
    if not name.endswith(".to_q"):
        return 0.0
    k = unet.get(name.removesuffix("q") + "k", q)  # a damaged base may lack it
    return 4.0 * q.positions * k.positions * q.out


def _autoencoder(base: Checkpoint, size: int, side: str) -> Iterator[Layer]:
    """Yield the layers of one side, encoder or decoder. LDM numbers the levels of both from the pixels on."""
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
            yield Layer(2 * shape[0], positions, 1, positions)  # the attention's two products
