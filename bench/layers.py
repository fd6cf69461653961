"""The linear layers of real bases that LoRAs touch, as kohya's sd-scripts trains them: name -> shape.

Structures: Stability's configurations of SD 1.5 and SDXL, Segmind's of SSD-1B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Shape = tuple[int, int]
Layers = dict[str, Shape]


def _block(name: str, width: int, cross: int) -> Iterator[tuple[str, Shape]]:
    for attention, keys in (("attn1", width), ("attn2", cross)):
        yield from ((f"{name}.{attention}.{part}", (width, width)) for part in ("to_q", "to_out.0"))
        yield from ((f"{name}.{attention}.{part}", (width, keys)) for part in ("to_k", "to_v"))
    yield f"{name}.ff.net.0.proj", (8 * width, width)
    yield f"{name}.ff.net.2", (width, 4 * width)


def _unet(cross: int, modules: Sequence[tuple[int, int]]) -> Layers:
    """``modules``: (width, transformer blocks) of each attention module."""
    layers: Layers = {}
    for number, (width, depth) in enumerate(modules):
        layers |= {f"unet.{number}.{part}": (width, width) for part in ("proj_in", "proj_out")}
        for block in range(depth):
            layers |= dict(_block(f"unet.{number}.transformer_blocks.{block}", width, cross))
    return layers


def _text(name: str, width: int, depth: int) -> Layers:
    layers: Layers = {}
    for number in range(depth):
        layers |= {f"{name}.{number}.self_attn.{part}": (width, width) for part in ("q_proj", "k_proj", "v_proj", "out_proj")}
        layers |= {f"{name}.{number}.mlp.fc1": (4 * width, width), f"{name}.{number}.mlp.fc2": (width, 4 * width)}
    return layers


_BIG = _text("te1", 768, 12) | _text("te2", 1280, 32)
BASES: dict[str, Layers] = {
    "SD 1.5": _unet(768, [(320, 1)] * 5 + [(640, 1)] * 5 + [(1280, 1)] * 6) | _text("te", 768, 12),
    "SDXL": _unet(2048, [(640, 2)] * 5 + [(1280, 10)] * 6) | _BIG,
    "SSD-1B": _unet(2048, [(640, 2)] * 3 + [(640, 1)] * 2 + [(1280, 4)] * 4 + [(1280, 10)]) | _BIG,
}
