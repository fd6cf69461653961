"""Draws how similar two bases are, by block and by a layer's role in its block."""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable
from io import BytesIO
from statistics import fmean
from typing import TYPE_CHECKING

from lorax.checkpoint import block_of
from lorax.transfer import LayerRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = {"input_blocks": "in", "middle_block": "mid", "output_blocks": "out", "te": "text", "te1": "text1", "te2": "text2"}
ROLES = {
    "attn1.": "self-attention ",
    "attn2.": "prompt attention ",
    "proj_in": "attention entry",
    "proj_out": "attention exit",
    "ff.net.0.proj": "feed-forward in",
    "ff.net.2": "feed-forward out",
    "in_layers.2": "convolution 1",
    "out_layers.3": "convolution 2",
    "emb_layers.1": "time",
    "skip_connection": "shortcut",
    "self_attn.": "text attention ",
    "mlp.fc1": "text feed-forward in",
    "mlp.fc2": "text feed-forward out",
}
GREY = "#888888"  # readable on light and on dark


def heatmap(records: Iterable[LayerRecord]) -> "Figure | None":
    """Draw mean similarities, with a row per role and a column per numbered block; return None if no layer has one."""
    from matplotlib.figure import Figure  # slow to import

    alike: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        if record.source and record.similarity is not None:
            alike[_block_and_role(record.source)].append(record.similarity)
    if not alike:
        return None
    means = {cell: fmean(similarities) for cell, similarities in alike.items()}
    blocks = sorted({block for block, _ in means}, key=_order)
    roles = sorted({role for _, role in means}, key=lambda role: (role.startswith("text"), role))
    grid = [[means.get((block, role), float("nan")) for block in blocks] for role in roles]
    column = min(0.42, max(0.18, 12 / len(blocks)))  # inches; SDXL has some seventy blocks
    figure = Figure(figsize=(1.6 + column * len(blocks), 0.9 + 0.26 * len(roles)), dpi=110, layout="constrained")
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    axis.patch.set_alpha(0)
    image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(blocks)), blocks, rotation=90, fontsize=8, color=GREY)
    axis.set_yticks(range(len(roles)), roles, fontsize=8, color=GREY)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.02)
    bar.set_label("similarity", color=GREY, fontsize=8)
    bar.ax.tick_params(labelsize=8, colors=GREY)
    bar.outline.set_visible(False)
    return figure


def as_html(records: Iterable[LayerRecord]) -> str:
    """Return the heat map as an image in HTML; empty if there is none. The page would load 5 MB of scripts for gradio's Plot."""
    if (figure := heatmap(records)) is None:
        return ""
    content = BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight")
    return f"<img alt='A map of similarities' src='data:image/png;base64,{b64encode(content.getvalue()).decode()}'>"


def _block_and_role(layer: str) -> tuple[str, str]:
    """Return both in words: (in 4, prompt attention k) for ``unet.input_blocks.4.1.transformer_blocks.0.attn2.to_k``."""
    block = block_of(layer)
    role = layer[len(block) :].lstrip(".")
    found = re.match(r"(?:unet\.)?(input_blocks|middle_block|output_blocks|te\d?)(?:\..*layers)?(?:\.(\d+))?", block)
    where = f"{SIDES[found[1]]} {found[2] or ''}" if found and role else layer.rpartition(".")[2]
    if found and found[1] == "middle_block":
        where = "mid"
    role = role or "alone"
    for sign, words in ROLES.items():
        role = role.replace(sign, words)
    return where.strip(), re.sub(r"\bto_|_proj\b|\.0$", "", role)


def _order(block: str) -> tuple[int, int]:
    side, _, number = block.partition(" ")
    sides = ["text", "text1", "text2", "in", "mid", "out"]
    return sides.index(side) if side in sides else len(sides), int(number or 0)
