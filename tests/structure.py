"""The parameters of UNets and text encoders, by their paths in LDM's and in diffusers' layout, and their shapes.

Written from Stability's configurations, and not with lorax' own naming code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Param(NamedTuple):
    """A parameter: its path in the LDM layout, in the diffusers layout, and its shape."""

    ldm: str
    diffusers: str
    shape: tuple[int, ...]

    @property
    def is_layer(self) -> bool:
        return len(self.shape) in (2, 4) and "embedding.weight" not in self.ldm


@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...] = (32, 64, 96, 96)
    cross: int = 64
    text_layers: int = 2
    vocabulary: int = 99
    blocks: int = 2  # residual blocks per level on the way down; one more on the way up

    def unet(self) -> list[Param]:
        levels = len(self.channels)
        down = [(1,) * self.blocks] * (levels - 1) + [(0,) * self.blocks]  # attention on all levels but the deepest
        up = [(0,) * (self.blocks + 1)] + [(1,) * (self.blocks + 1)] * (levels - 1)
        return list(unet_params(self.channels, self.cross, down, 1, up))

    def text(self) -> list[Param]:
        return list(text_params(self.cross, self.text_layers, self.vocabulary))


TINY = Size()
TINY_PRUNED = Size(blocks=1)
WIDER = Size(channels=(64, 96, 128, 128), cross=96)
FULL = Size((320, 640, 1280, 1280), 768, 12, 49408)
FULL_PRUNED = Size((320, 640, 1280, 1280), 768, 12, 49408, blocks=1)


def _both(path: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.weight", shape
    if bias:
        yield f"{path}.bias", shape[:1]


def _resnet(ldm: str, diffusers: str, inputs: int, outputs: int, time: int) -> Iterator[Param]:
    rows = [
        ("in_layers.0", "norm1", (inputs,)),
        ("in_layers.2", "conv1", (outputs, inputs, 3, 3)),
        ("emb_layers.1", "time_emb_proj", (outputs, time)),
        ("out_layers.0", "norm2", (outputs,)),
        ("out_layers.3", "conv2", (outputs, outputs, 3, 3)),
    ]
    if inputs != outputs:
        rows.append(("skip_connection", "conv_shortcut", (outputs, inputs, 1, 1)))
    for a, b, shape in rows:
        yield from _same(f"{ldm}.{a}", f"{diffusers}.{b}", *shape)


def _same(ldm: str, diffusers: str, *shape: int, bias: bool = True) -> Iterator[Param]:
    for (a, size), (b, _) in zip(_both(ldm, *shape, bias=bias), _both(diffusers, *shape, bias=bias), strict=True):
        yield Param(a, b, size)


def _attention(ldm: str, diffusers: str, c: int, cross: int, depth: int, linear: bool) -> Iterator[Param]:
    """A module of ``depth`` transformer blocks, none at 0; its projections are linear layers or 1x1 convolutions."""
    if not depth:
        return
    square = (c, c) if linear else (c, c, 1, 1)
    for name, shape in (("norm", (c,)), ("proj_in", square), ("proj_out", square)):
        yield from _same(f"{ldm}.{name}", f"{diffusers}.{name}", *shape)
    for number in range(depth):
        a, b = f"{ldm}.transformer_blocks.{number}", f"{diffusers}.transformer_blocks.{number}"
        for attn, inputs in (("attn1", c), ("attn2", cross)):
            for name, width in (("to_q", c), ("to_k", inputs), ("to_v", inputs)):
                yield from _same(f"{a}.{attn}.{name}", f"{b}.{attn}.{name}", c, width, bias=False)
            yield from _same(f"{a}.{attn}.to_out.0", f"{b}.{attn}.to_out.0", c, c)
        yield from _same(f"{a}.ff.net.0.proj", f"{b}.ff.net.0.proj", 8 * c, c)
        yield from _same(f"{a}.ff.net.2", f"{b}.ff.net.2", c, 4 * c)
        for name in ("norm1", "norm2", "norm3"):
            yield from _same(f"{a}.{name}", f"{b}.{name}", c)


def unet_params(
    channels: tuple[int, ...],
    cross: int,
    down: Sequence[Sequence[int]],
    middle: int | None,
    up: Sequence[Sequence[int]],
    *,
    linear: bool = False,
    pooled: int | None = None,
) -> Iterator[Param]:
    """``down``, ``up``: transformer blocks beside each residual block of a level, in the order of the layers.

    ``middle``: None for no attention, and as in the WebUI's SSD-1B no second residual block either. ``pooled``: width of what the
    timestep embedding is given besides.
    """
    first, time, last = channels[0], 4 * channels[0], len(channels) - 1
    yield from _same("time_embed.0", "time_embedding.linear_1", time, first)
    yield from _same("time_embed.2", "time_embedding.linear_2", time, time)
    if pooled is not None:
        yield from _same("label_emb.0.0", "add_embedding.linear_1", time, pooled)
        yield from _same("label_emb.0.2", "add_embedding.linear_2", time, time)
    yield from _same("input_blocks.0.0", "conv_in", first, 4, 3, 3)
    number, c, skips = 1, first, [first]
    for level, width in enumerate(channels):
        name = f"down_blocks.{level}"
        for index, depth in enumerate(down[level]):
            yield from _resnet(f"input_blocks.{number}.0", f"{name}.resnets.{index}", c, width, time)
            yield from _attention(f"input_blocks.{number}.1", f"{name}.attentions.{index}", width, cross, depth, linear)
            number, c = number + 1, width
            skips.append(c)
        if level < last:
            yield from _same(f"input_blocks.{number}.0.op", f"{name}.downsamplers.0.conv", c, c, 3, 3)
            number += 1
            skips.append(c)
    yield from _resnet("middle_block.0", "mid_block.resnets.0", c, c, time)
    if middle is not None:
        yield from _attention("middle_block.1", "mid_block.attentions.0", c, cross, middle, linear)
        yield from _resnet("middle_block.2", "mid_block.resnets.1", c, c, time)
    number = 0
    for level, width in enumerate(reversed(channels)):
        name = f"up_blocks.{level}"
        for index, depth in enumerate(up[level]):
            yield from _resnet(f"output_blocks.{number}.0", f"{name}.resnets.{index}", c + skips.pop(), width, time)
            yield from _attention(f"output_blocks.{number}.1", f"{name}.attentions.{index}", width, cross, depth, linear)
            c = width
            if index == len(up[level]) - 1 and level < last:
                child = 2 if depth else 1
                yield from _same(f"output_blocks.{number}.{child}.conv", f"{name}.upsamplers.0.conv", c, c, 3, 3)
            number += 1
    yield from _same("out.0", "conv_norm_out", c)
    yield from _same("out.2", "conv_out", 4, c, 3, 3)


def text_params(width: int, layers: int, vocabulary: int) -> Iterator[Param]:
    rows: list[tuple[str, tuple[int, ...]]] = [
        ("embeddings.token_embedding.weight", (vocabulary, width)),
        ("embeddings.position_embedding.weight", (77, width)),
    ]
    for layer in range(layers):
        head = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            rows += _both(f"{head}.self_attn.{name}", width, width)
        rows += [*_both(f"{head}.layer_norm1", width), *_both(f"{head}.layer_norm2", width)]
        rows += [*_both(f"{head}.mlp.fc1", 4 * width, width), *_both(f"{head}.mlp.fc2", width, 4 * width)]
    rows += _both("final_layer_norm", width)
    for path, shape in rows:
        yield Param(f"text_model.{path}", f"text_model.{path}", shape)
