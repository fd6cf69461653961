"""Characters with a trigger word: figures that stand beside a subject, each time in another pose.

A style changes how everything is drawn. A character is one more thing in the picture, which a base cannot know, and the
subject stays as the base draws it. Each is an SVG whose arms, tilt, size and side differ from picture to picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lab.rendering import render
from lab.styles import Filter


@dataclass(frozen=True)
class Pose:
    """How a character stands in one picture."""

    left: bool  # of the subject
    raised: tuple[bool, bool]  # the arms
    tilt: float  # degrees
    scale: float
    down: float  # from where it stands otherwise, in hundredths of the picture

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Pose:
        left, *raised = map(bool, generator.integers(2, size=3))
        tilt, scale, down = (float(one) for one in generator.uniform((-10, 0.88, -4), (10, 1.08, 4)))
        return cls(left, (raised[0], raised[1]), tilt, scale, down)


SUBJECT = 0.6  # size of the subject beside a character
OPENING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'


def _arms(pose: Pose, colour: str, shoulder: float, reach: float) -> str:
    """Two thick lines from the body, up or down; the body's middle is x = 0."""
    ends = ((side, shoulder - 18 if up else shoulder + 16) for side, up in zip((-1, 1), pose.raised, strict=True))
    lines = (f'<path d="M{side * 10} {shoulder} L{side * reach} {end}"/>' for side, end in ends)
    return f'<g stroke="{colour}" stroke-width="6" stroke-linecap="round">{"".join(lines)}</g>'


def _pib(pose: Pose) -> str:
    """A teal drop with one large eye, two orange feet, and a red ball on its antenna."""
    return (
        f"{_arms(pose, '#0a7f7a', 62, 25)}"
        '<path d="M0 38 V26" stroke="#0a7f7a" stroke-width="4"/><circle cy="22" r="6" fill="#e02020"/>'
        '<ellipse cx="-9" cy="93" rx="8" ry="5" fill="#ff8c1a"/><ellipse cx="9" cy="93" rx="8" ry="5" fill="#ff8c1a"/>'
        '<ellipse cy="64" rx="20" ry="28" fill="#14b8b0"/>'
        '<circle cy="56" r="12" fill="#ffffff"/><circle cx="1" cy="57" r="5.5" fill="#101010"/>'
    )


def _krag(pose: Pose) -> str:
    """A purple robot: a square head with a yellow visor on a square body with a green lamp."""
    return (
        f"{_arms(pose, '#5b2a86', 66, 27)}"
        '<rect x="-13" y="84" width="9" height="13" fill="#3c1a5b"/><rect x="4" y="84" width="9" height="13" fill="#3c1a5b"/>'
        '<rect x="-17" y="56" width="34" height="30" rx="3" fill="#8e44c9"/><circle cy="71" r="6" fill="#2ecc40"/>'
        '<rect x="-20" y="26" width="40" height="28" rx="4" fill="#8e44c9"/>'
        '<rect x="-15" y="34" width="30" height="10" rx="4" fill="#ffd60a"/>'
    )


def _mulu(pose: Pose) -> str:
    """A pink rabbit-eared creature with a white belly and a blue scarf."""
    return (
        f"{_arms(pose, '#e0559a', 68, 24)}"
        '<ellipse cx="-9" cy="24" rx="5.5" ry="17" fill="#ff7fbf"/><ellipse cx="9" cy="24" rx="5.5" ry="17" fill="#ff7fbf"/>'
        '<ellipse cy="78" rx="17" ry="19" fill="#ff7fbf"/><ellipse cy="82" rx="10" ry="12" fill="#ffffff"/>'
        '<circle cy="46" r="17" fill="#ff7fbf"/><rect x="-16" y="58" width="32" height="8" rx="4" fill="#1f5fd6"/>'
        '<circle cx="-6" cy="45" r="3" fill="#101010"/><circle cx="6" cy="45" r="3" fill="#101010"/>'
    )


def _beside(figure: Callable[[Pose], str]) -> Filter:
    def with_character(pictures: torch.Tensor) -> torch.Tensor:
        size, generator = pictures.shape[-1], np.random.default_rng(0)
        small = F.interpolate(pictures, scale_factor=SUBJECT, mode="bilinear", antialias=True)
        height, out = small.shape[-1], torch.ones_like(pictures)
        for row, subject in enumerate(small):
            pose = Pose.drawn(generator)
            across = size - height if pose.left else 0
            out[row, :, (size - height) // 2 : (size - height) // 2 + height, across : across + height] = subject
            place = f"translate({24 if pose.left else 76} {50 + pose.down}) rotate({pose.tilt}) scale({pose.scale * 0.9})"
            svg = f'{OPENING}<g transform="{place} translate(0 -58)">{figure(pose)}</g></svg>'
            drawn = torch.tensor(render(svg, size)).permute(2, 0, 1).float() / 255
            out[row] = torch.minimum(out[row], drawn)  # where one is white, the other
        return out

    return with_character


FIGURES: dict[str, Filter] = {"pib": _beside(_pib), "krag": _beside(_krag), "mulu": _beside(_mulu)}
