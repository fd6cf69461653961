"""The names of layers, in the LDM and the diffusers layout.

A layer's name is its component and its path: in the UNet that of the LDM ("compvis") layout, as
``unet.input_blocks.1.1.proj_in``, and in a text encoder that of transformers, as ``te.text_model.encoder.layers.0.mlp.fc1``.
Diffusers' names are derived from the blocks that a base has, so that the names of pruned bases, whose block numbers differ, are
right too.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
RESNET_INVERSE = {diffusers: ldm for ldm, diffusers in RESNET.items()}
OUTSIDE_BLOCKS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
TEXT_MODEL = "text_model."  # prefix that transformers 5, adapters made with it and some old checkpoints leave out
PROJECTION = "text_projection"  # the projection of the pooled text, which is not inside the text model
BLOCK = re.compile(
    r"unet\.((input|output)_blocks\.\d+\.\d+|middle_block\.\d+)(\.transformer_blocks\.\d+)?"
    r"|\w+\.text_model\.encoder\.layers\.\d+"
)


@dataclass(frozen=True)
class UNetNames:
    """The names of a UNet's blocks: diffusers' by LDM's, such as ``up_blocks.1.attentions.0`` by ``output_blocks.3.1``."""

    blocks: dict[str, str]

    @classmethod
    def from_ldm(cls, paths: Iterable[str]) -> "UNetNames":
        """Return the names of an LDM UNet, from its module or parameter paths without ``model.diffusion_model.``."""
        inside = _children(paths, r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)")
        blocks, level, index = dict(OUTSIDE_BLOCKS), 0, 0
        for number in sorted(n for side, n in inside if side == "input_blocks" and n > 0):
            block = f"input_blocks.{number}"
            parts = inside["input_blocks", number]
            if any(rest.startswith("op.") or rest == "op" for rest in parts.get(0, ())):
                blocks[f"{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
                level, index = level + 1, 0
                continue
            blocks[f"{block}.0"] = f"down_blocks.{level}.resnets.{index}"
            if 1 in parts:
                blocks[f"{block}.1"] = f"down_blocks.{level}.attentions.{index}"
            index += 1
        level, index = 0, 0
        for number in sorted(n for side, n in inside if side == "output_blocks"):
            block, parts = f"output_blocks.{number}", inside["output_blocks", number]
            blocks[f"{block}.0"] = f"up_blocks.{level}.resnets.{index}"
            upsampled = False
            for child in sorted(parts.keys() - {0}):
                upsampled = any(rest.startswith("conv.") or rest == "conv" for rest in parts[child])
                if upsampled:
                    blocks[f"{block}.{child}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
                else:
                    blocks[f"{block}.{child}"] = f"up_blocks.{level}.attentions.{index}"
            level, index = (level + 1, 0) if upsampled else (level, index + 1)
        return cls(blocks)

    @classmethod
    def from_diffusers(cls, paths: Iterable[str]) -> "UNetNames":
        """Return the names of a diffusers UNet, from its module or parameter paths."""
        inside = _children(paths, r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\..+")
        blocks, number = dict(OUTSIDE_BLOCKS), 1
        for level in sorted(n for side, n in inside if side == "down_blocks"):
            parts, name = inside["down_blocks", level], f"down_blocks.{level}"
            for index in range(len(parts.get("resnets", ()))):
                blocks[f"input_blocks.{number}.0"] = f"{name}.resnets.{index}"
                if str(index) in parts.get("attentions", ()):
                    blocks[f"input_blocks.{number}.1"] = f"{name}.attentions.{index}"
                number += 1
            if "downsamplers" in parts:
                blocks[f"input_blocks.{number}.0.op"] = f"{name}.downsamplers.0.conv"
                number += 1
        number = 0
        for level in sorted(n for side, n in inside if side == "up_blocks"):
            parts, name = inside["up_blocks", level], f"up_blocks.{level}"
            for index in range(len(parts.get("resnets", ()))):
                child = 1
                blocks[f"output_blocks.{number}.0"] = f"{name}.resnets.{index}"
                if str(index) in parts.get("attentions", ()):
                    blocks[f"output_blocks.{number}.1"] = f"{name}.attentions.{index}"
                    child = 2
                if "upsamplers" in parts and index == len(parts["resnets"]) - 1:
                    blocks[f"output_blocks.{number}.{child}.conv"] = f"{name}.upsamplers.0.conv"
                number += 1
        return cls(blocks)

    def has_ldm(self, path: str) -> bool:
        """Tell whether a path in LDM layout is in one of the blocks. Merged files may hold other parameters."""
        return _head(path, self.blocks) is not None

    def has_diffusers(self, path: str) -> bool:
        """Tell whether a path in diffusers layout is in one of the blocks."""
        return _head(path, self._inverse) is not None

    def to_diffusers(self, path: str) -> str:
        """Return the diffusers path of a layer or parameter, the inverse of ``to_ldm``."""
        block, rest = _split(path, self.blocks)
        name = self.blocks[block]
        return name + _renamed(rest, RESNET if ".resnets." in name else {})

    def to_ldm(self, path: str) -> str:
        """Return the LDM path of a layer or parameter: ``input_blocks.1.0.in_layers.2`` for ``down_blocks.0.resnets.0.conv1``."""
        name, rest = _split(path, self._inverse)
        return self._inverse[name] + _renamed(rest, RESNET_INVERSE if ".resnets." in name else {})

    @cached_property
    def _inverse(self) -> dict[str, str]:
        return {name: block for block, name in self.blocks.items()}

    @cached_property
    def levels(self) -> int:
        """The number of resolutions at which the UNet works."""
        return 1 + max((int(name.split(".")[1]) for name in self.blocks.values() if name.startswith("down_blocks.")), default=0)

    def level_of(self, name: str) -> int:
        """Return the level of the block that holds the diffusers path ``name``: 0 is full resolution, 1 is half of it."""
        side, _, rest = name.partition(".")
        if side == "down_blocks":
            return int(rest.partition(".")[0])
        if side == "up_blocks":
            return self.levels - 1 - int(rest.partition(".")[0])
        return self.levels - 1 if side == "mid_block" else 0

    def is_standard(self) -> bool:
        """Tell whether blocks are numbered as in SD 1.x, with three entries per level, as hosts assume for diffusers names."""
        for block, name in self.blocks.items():
            if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+).*", name):
                level, kind, index = int(found[2]), found[3], int(found[4])
                expected = {
                    "resnets": f"{3 * level + index + (found[1] == 'down')}.0",
                    "attentions": f"{3 * level + index + (found[1] == 'down')}.1",
                    "downsamplers": f"{3 * level + 3}.0.op",
                    "upsamplers": f"{3 * level + 2}.{2 if level else 1}.conv",
                }
                if block.partition(".")[2] != expected[kind]:
                    return False
        return True


def component_of(layer: str) -> str:
    """Return the component of a layer, such as ``unet``."""
    return layer.partition(".")[0]


def block_of(layer: str) -> str:
    """Return the block of a layer, which is the unit of pairing: ``te.text_model.encoder.layers.3`` for its ``mlp.fc1``.

    A block is a transformer block, the projections of an attention module, a residual block, or a layer alone. Pruning removes
    single transformer blocks from attention modules, so a module as a whole may have no counterpart.
    """
    found = BLOCK.match(layer)
    return found[0] if found else layer


def by_block(layers: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the layers by block and by path inside the block."""
    blocks: dict[str, dict[str, str]] = defaultdict(dict)
    for layer in layers:
        block = block_of(layer)
        blocks[block][layer[len(block) :]] = layer
    return blocks


def text_path(path: str) -> str:
    """Return the path of a text encoder's layer or parameter with the prefix ``text_model.``, which may be missing."""
    return path if path.startswith((TEXT_MODEL, PROJECTION)) else TEXT_MODEL + path


def _split(path: str, blocks: Collection[str]) -> tuple[str, str]:
    """Return (block, rest) of a path. Raises KeyError if it is in none of the blocks."""
    head = _head(path, blocks)
    if head is None:
        raise KeyError(path)
    return head, path[len(head) :]


def _head(path: str, blocks: Collection[str]) -> str | None:
    """Return the longest block that the path begins with, or None."""
    parts = path.split(".")
    heads = (".".join(parts[:length]) for length in range(min(5, len(parts)), 0, -1))
    return next((head for head in heads if head in blocks), None)


def _children(paths: Iterable[str], pattern: str) -> dict[tuple[str, int], dict]:
    """Return the paths or indices below each child, by (side, block number) and child."""
    inside: dict[tuple[str, int], dict] = {}
    for path in paths:
        if found := re.fullmatch(pattern, path):
            child: int | str = int(found[3]) if found[3].isdigit() else found[3]
            inside.setdefault((found[1], int(found[2])), {}).setdefault(child, set()).add(found[4])
    return inside


def _renamed(rest: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if rest == f".{old}" or rest.startswith(f".{old}."):
            return f".{new}" + rest[len(old) + 1 :]
    return rest
