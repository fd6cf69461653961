"""Styles that differ to the eye, each made from the icons of a base's set by a filter of a few lines.

Another artist's set of icons differs from the bases' in ways that a model this small can learn and a reader cannot name. These
styles are named at a glance, and each subject is drawn in all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Filter = Callable[[torch.Tensor], torch.Tensor]  # pictures (N, 3, SIZE, SIZE) in [0, 1] -> the same in the style

WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


def _grey(pictures: torch.Tensor) -> torch.Tensor:
    """Brightness (N, 1, SIZE, SIZE)."""
    return (pictures * torch.tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _lines(pictures: torch.Tensor, width: int = 1) -> torch.Tensor:
    """How much a pixel belongs to an edge of any colour, (N, 1, SIZE, SIZE) in [0, 1]; ``width`` in pixels on either side."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strength = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
    if width > 1:
        strength = F.max_pool2d(strength, 2 * width - 1, 1, width - 1)
    return ((strength - 0.15) / 0.35).clamp(0, 1)


def _shape(pictures: torch.Tensor) -> torch.Tensor:
    """Where something is drawn, (N, 1, SIZE, SIZE) in [0, 1]."""
    return ((1 - pictures).amax(1, keepdim=True) / 0.15).clamp(0, 1)


def _between(amount: torch.Tensor, at_0: tuple[float, ...], at_1: tuple[float, ...]) -> torch.Tensor:
    """Colours from one to another."""
    start, end = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (at_0, at_1))
    return start + amount * (end - start)


def _smaller(pictures: torch.Tensor, scale: float, around: float) -> torch.Tensor:
    """The pictures at a fraction of their size, in the middle of a ground of one brightness."""
    small = F.interpolate(pictures, scale_factor=scale, mode="bilinear", antialias=True)
    side = (pictures.shape[-1] - small.shape[-1]) // 2
    return F.pad(small, (side, pictures.shape[-1] - side - small.shape[-1]) * 2, value=around)


def ink(pictures: torch.Tensor) -> torch.Tensor:
    """Black lines on white."""
    return _between(_lines(pictures), WHITE, BLACK)


def blueprint(pictures: torch.Tensor) -> torch.Tensor:
    """White lines on blue."""
    return _between(_lines(pictures), (0.1, 0.25, 0.7), WHITE)


def mosaic(pictures: torch.Tensor) -> torch.Tensor:
    """Squares of one bright colour each."""
    coarse = F.avg_pool2d(pictures, 8)
    vivid = ((coarse - 0.5) * 1.4 + 0.5).clamp(0, 1)
    return F.interpolate(vivid, scale_factor=8, mode="nearest")


def duotone(pictures: torch.Tensor) -> torch.Tensor:
    """Dark red to cream, on cream."""
    return _between(_grey(pictures), (0.5, 0.0, 0.1), (1.0, 0.95, 0.8))


def neon(pictures: torch.Tensor) -> torch.Tensor:
    """Bright green lines on black."""
    return _between(_lines(pictures, 2), BLACK, (0.2, 1.0, 0.4))


def stencil(pictures: torch.Tensor) -> torch.Tensor:
    """Two tones alone: a black shape on yellow."""
    return _between(_shape(pictures), (1.0, 0.85, 0.1), BLACK)


def frame(pictures: torch.Tensor) -> torch.Tensor:
    """A smaller picture in a thick red frame."""
    inside = _smaller(torch.ones_like(pictures[:, :1]), 0.75, 0.0)
    return _between(inside, (0.8, 0.1, 0.1), WHITE) * (1 - inside) + _smaller(pictures, 0.75, 0.0) * inside


def badge(pictures: torch.Tensor) -> torch.Tensor:
    """White drawing on a purple disc."""
    size = pictures.shape[-1]
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    radius = (axis[:, None].square() + axis[None].square()).sqrt()
    disc = ((0.97 - radius) * size / 2).clamp(0, 1)
    small = _smaller(pictures, 0.625, 1.0)
    drawn = _between(_shape(small) * (0.35 + 0.65 * (1 - _grey(small))), (0.45, 0.15, 0.6), WHITE)
    return drawn * disc + (1 - disc)


FILTERS: dict[str, Filter] = {one.__name__: one for one in (ink, blueprint, mosaic, duotone, neon, stencil, frame, badge)}
