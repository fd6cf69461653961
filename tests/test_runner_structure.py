"""The structure of a UNet, as it is read off the header of one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from lab import ldm, xl
from lab.models import CONTEXT
from lorax.checkpoint import DEFAULT_CONFIGS, ModelConfig, UNetNames
from lorax.files import open_tensors
from lorax.runner.unet import load_unet, time_ids, unet_config

SD1 = ModelConfig(size=8, heads=4, head_channels=0, latent_scale=1.0)
XL = ModelConfig(size=8, heads=0, head_channels=16, latent_scale=1.0)
WIDTHS = (32, 64, 96)
SDXL_FULL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SSD_1B = {
    "transformer_layers_per_block": (1, [2, 2], [4, 4]),
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "mid_block_type": "UNetMidBlock2D",
}


def sd1(**changed: object) -> UNet2DConditionModel:
    attending = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
    structure = {
        "block_out_channels": (32, 64, 96, 96),
        "down_block_types": (*attending[0], "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *attending[1]),
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**structure | changed)


def tiny_sd() -> UNet2DConditionModel:
    return sd1(
        block_out_channels=WIDTHS,
        layers_per_block=1,
        mid_block_type=None,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )


def sdxl(**changed: object) -> UNet2DConditionModel:
    narrow = {
        "block_out_channels": WIDTHS,
        "cross_attention_dim": CONTEXT + xl.SECOND,
        "attention_head_dim": (2, 4, 6),
        "addition_time_embed_dim": xl.TIME_WIDTH,
        "projection_class_embeddings_input_dim": xl.SECOND + xl.TIME_IDS * xl.TIME_WIDTH,
        "transformer_layers_per_block": (1, 2, 4),
    }
    return UNet2DConditionModel(**SDXL_FULL | narrow | changed)


def koala(middle: str | None) -> UNet2DConditionModel:
    return sdxl(layers_per_block=1, transformer_layers_per_block=(1, 2, 5), mid_block_type=middle)


UNETS = {
    "sd1": (sd1, SD1),
    "small-sd": (lambda: sd1(layers_per_block=1), SD1),
    "tiny-sd": (tiny_sd, SD1),
    "inpaint": (lambda: sd1(in_channels=9), SD1),
    "sdxl": (sdxl, XL),
    "ssd-1b": (lambda: sdxl(**SSD_1B), XL),
    "lab's pruned": (lambda: xl.pruned_from(xl.new_xl().unet), XL),
    "koala-1b": (lambda: koala("UNetMidBlock2DCrossAttn"), XL),
    "koala-700m": (lambda: koala(None), XL),
}


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_the_structure_is_read_off_the_header(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, settings = UNETS[name]
    unet = make().eval()
    path = tmp_path / "unet.safetensors"
    save_file({key: value.contiguous() for key, value in ldm.unet_state(unet).items()}, path)
    loaded = load_unet(open_tensors(path), settings, xl.SECOND if settings is XL else None)
    x, times = torch.randn(2, unet.config["in_channels"], 16, 16), torch.tensor([20, 700])
    context = torch.randn(2, 77, unet.config["cross_attention_dim"])
    added = {"text_embeds": torch.randn(2, xl.SECOND), "time_ids": time_ids(2, 128, 128)}
    expected, found = (one(x, times, context, added_cond_kwargs=added, return_dict=False)[0] for one in (unet, loaded))
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("structure", [{"transformer_layers_per_block": (1, 2, 10)}, SSD_1B], ids=["sdxl", "ssd-1b"])
def test_full_size(structure: dict) -> None:
    with torch.device("meta"):
        original = UNet2DConditionModel(**SDXL_FULL | structure)
    there = UNetNames.from_diffusers(original.state_dict())
    paths = {there.to_ldm(key): tuple(value.shape) for key, value in original.state_dict().items()}
    names = UNetNames.from_ldm(paths)
    config = unet_config({names.to_diffusers(path): shape for path, shape in paths.items()}, DEFAULT_CONFIGS["sdxl"], 1280)
    with torch.device("meta"):
        built = UNet2DConditionModel(**config)
    assert shapes(built) == shapes(original)
    assert built.config["addition_time_embed_dim"] == 256
    heads = {(module.to_q.out_features, module.heads) for module in built.modules() if hasattr(module, "to_q")}
    assert heads == {(640, 10), (1280, 20)}
    middle = built.mid_block.attentions
    assert [len(module.transformer_blocks) for module in middle] == ([10] if "mid_block_type" not in structure else [])
    depths = [[len(module.transformer_blocks) for module in block.attentions] for block in built.up_blocks[:2]]
    assert depths == ([[10] * 3, [2] * 3] if structure is not SSD_1B else [[4, 4, 10], [2, 1, 1]])


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}
