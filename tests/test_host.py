"""A real host: what is written does there what was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors.torch import load_file

from tests import builders, structure
from tests.builders import State
from tests.measures import HALF, distance
from tests.samples import Files, transfer


@pytest.mark.parametrize("kind", ["target", "pruned"])
def test_diffusers_applies_the_written_file(files: Files, out: Path, kind: str) -> None:
    """Loaded and fused by diffusers and PEFT, the UNet's weights change by exactly the intended deltas."""
    size = structure.TINY if kind == "target" else structure.TINY_PRUNED
    state: State = getattr(files, f"{kind}_state")
    unet = UNet2DConditionModel(
        block_out_channels=size.channels, cross_attention_dim=size.cross, layers_per_block=size.blocks, attention_head_dim=4
    )
    unet.load_state_dict({param.diffusers: state[builders.UNET + param.ldm] for param in size.unet()})
    deltas = [delta for delta in files.deltas if delta.component == "unet"]
    lora = builders.save_lora(out / "unet.safetensors", deltas)
    moved = transfer(lora, files.base, getattr(files, kind), out, "--method", "copy")
    loader = StableDiffusionLoraLoaderMixin
    tensors, alphas = loader.lora_state_dict(load_file(moved), unet_config=unet.config)
    loader.load_lora_into_unet(tensors, alphas, unet)
    unet.fuse_lora()
    unet.unload_lora()
    expected = {delta.diffusers if kind == "target" else builders.pruned_name(delta.diffusers): delta.dense for delta in deltas}
    changed = unet.state_dict()
    for param in size.unet():
        if param.is_layer:
            before, after = (x.flatten(1).double().numpy() for x in (state[builders.UNET + param.ldm], changed[param.diffusers]))
            dW = expected.get(param.diffusers.removesuffix(".weight"))
            if dW is None:
                assert np.array_equal(before, after)
            else:
                assert distance(after - before, dW) < HALF
