"""OpenCLIP's text encoders under the names that transformers gives their layers, which all adapters use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lorax.errors import LoraxError
from lorax.tensors import Part, TensorFile

# What transformers keeps as three weights, OpenCLIP keeps as the rows of one.
FUSED = {"attn.in_proj_weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
LAYERS = {"attn.out_proj.weight": "self_attn.out_proj", "mlp.c_fc.weight": "mlp.fc1", "mlp.c_proj.weight": "mlp.fc2"}
PROJECTION = "text_projection"  # of the pooled text; OpenCLIP multiplies by it from the right, and keeps it transposed


def layers(file: TensorFile, prefix: str) -> Mapping[str, Part]:
    """Path as in transformers -> where the weight is, for all linear layers of the encoder whose keys begin with ``prefix``.

    Raises LoraxError when a fused weight is not three of one size.
    """
    found: dict[str, Part] = {}
    for key, shape in file.shapes.items():
        if not key.startswith(prefix):
            continue
        path = key.removeprefix(prefix)
        if path == PROJECTION and len(shape) == 2:
            found[PROJECTION] = Part(file, key, transposed=True)
        if not (block := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", path)):
            continue
        head, inside = f"text_model.encoder.layers.{block[1]}", block[2]
        if inside in LAYERS:
            found[f"{head}.{LAYERS[inside]}"] = Part(file, key)
        elif inside in FUSED:
            rows = shape[0] // 3 if shape else 0
            if shape != (3 * rows, rows):
                raise LoraxError(
                    f"{file.path}: {key} has shape {shape}; expected three square matrices for q, k and v, one below the other. "
                    "The checkpoint is damaged; use another copy."
                )
            for number, name in enumerate(FUSED[inside]):
                found[f"{head}.{name}"] = Part(file, key, slice(number * rows, (number + 1) * rows))
    return found
