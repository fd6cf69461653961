"""Draws a labelled grid of pictures."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

QUALITY = 80  # of 100: a tenth as large as a PNG


def draw(rows: list[tuple[str, str, torch.Tensor]], columns: list[str], path: Path, *, inches: float = 1.1) -> None:
    """Write a WebP with one row per (model, variant, pictures (N, 3, H, W) in [0, 1]) and one column per prompt.

    A picture is ``inches`` of 100 pixels wide.
    """
    figure = Figure(figsize=(inches * len(columns) + 2.4, inches * len(rows) + 0.4), dpi=100)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (model, variant, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(f"{model}\n{variant}", rotation=0, ha="right", va="center")
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, pil_kwargs={"quality": QUALITY, "method": 6})
