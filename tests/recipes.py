"""How the known pruned models were made from whole ones, on narrow models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests import xl
from tests.structure import TINY, Param, unet_params

XL = xl.XL.unet()  # 2 transformer blocks in modules of SDXL's 2, and 4 in those of 10
WIDE = {"linear": True, "pooled": xl.XL.pooled}


def without_middle(params: list[Param]) -> list[Param]:
    return [param for param in params if not param.ldm.startswith("middle_block")]


def same(path: str) -> str:
    """SSD-1B and Vega keep the first transformer blocks of every module."""
    return path


def bk_sdm(path: str, gone: int = 0) -> str:
    """Return the whole UNet's path of what BK-SDM kept: of a level, the first block down, and the first and last up."""
    parts = path.split(".")
    if parts[0] == "up_blocks":
        parts[1] = str(int(parts[1]) + gone)
        if parts[2] in ("resnets", "attentions") and parts[3] == "1":
            parts[3] = "2"
    return ".".join(parts)


@dataclass(frozen=True)
class Recipe:
    """A whole UNet, a pruned one, and the way back: ``origin`` maps a diffusers path in the pruned one to the whole one."""

    whole: list[Param]
    pruned: list[Param]
    origin: Callable[[str], str]


def koala(depth: int, middle: int | None) -> list[Param]:
    cross, down, up = xl.XL.first + xl.XL.second, [(0,), (2,), (depth,)], [(depth,) * 2, (2, 2), (0, 0)]
    params = list(unet_params(xl.XL.channels, cross, down, middle, up, **WIDE))
    return params if middle else without_middle(params)


RECIPES = {
    "ssd-1b": Recipe(XL, xl.SSD.unet(), same),
    "vega": Recipe(XL, xl.VEGA.unet(), same),
    "koala-1b": Recipe(XL, koala(3, 3), bk_sdm),
    "koala-700m": Recipe(XL, koala(2, None), bk_sdm),
    "small-sd": Recipe(
        TINY.unet(), list(unet_params(TINY.channels, 64, [(1,)] * 3 + [(0,)], 1, [(0, 0)] + [(1, 1)] * 3)), bk_sdm
    ),
    "tiny-sd": Recipe(
        TINY.unet(),
        without_middle(list(unet_params(TINY.channels[:3], 64, [(1,)] * 3, None, [(1, 1)] * 3))),
        lambda path: bk_sdm(path, gone=1),
    ),
}
