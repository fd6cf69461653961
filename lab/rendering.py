"""Renders an SVG."""

from __future__ import annotations

import io

import numpy as np
import resvg_py
from PIL import Image


def render(svg: str, size: int) -> np.ndarray:
    """An SVG on white, uint8 (size, size, 3), supersampled four times."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * size, height=4 * size, background="white"))
    image = Image.open(io.BytesIO(png)).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)
