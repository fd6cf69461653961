"""How large the small form is for a model of SDXL's real size."""

from __future__ import annotations

import math

import torch
from safetensors.torch import save

from lorax.formats import small
from tests import xl


def test_a_small_file_for_sdxl_is_under_one_megabyte() -> None:
    """The UNet's attention modules and both text encoders, at the default rank and in half precision."""
    tensors = {}
    for layer in xl.trained(xl.FULL):
        m, *rest = xl.layers(xl.FULL)[layer].shape
        r = round(min(m, math.prod(rest)) / 4)
        parts = small.encode(torch.zeros(r), torch.zeros(small.PROBES, r, dtype=torch.float64), torch.float16)
        tensors |= {f"{xl.spelled(layer, xl.FULL, 'kohya')}.{part}": tensor for part, tensor in parts.items()}
    assert len(tensors) == 2 * 986
    assert 500_000 < len(save(tensors)) < 1_000_000
