"""Whole key lists of SDXL and its pruned siblings, with diffusers' and transformers' own models and converters as the oracle."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils as lora_keys
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorax.checkpoint import Checkpoint, UNetNames, families, open_checkpoint
from tests import xl
from tests.tensor_files import HeaderOnly, Shapes


def options(size: xl.Size) -> dict[str, Any]:
    """How diffusers is told of the structure."""
    up = [[depth or 1 for depth in level] for level in size.up]
    return {
        "transformer_layers_per_block": [depth or 1 for depth in size.down],
        "reverse_transformer_layers_per_block": up,
        "mid_block_type": "UNetMidBlock2D" if size.middle is None else "UNetMidBlock2DCrossAttn",
    }


@cache
def unet(kind: str) -> UNet2DConditionModel:
    size = xl.SIZES[kind]
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=size.channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=size.first + size.second,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=size.channels[0],
            projection_class_embeddings_input_dim=size.pooled,
            **options(size),
        )


@cache
def checkpoint(kind: str) -> Checkpoint:
    """The base, opened by its header in Stability's layout."""
    size = xl.SIZES[kind]
    with torch.device("meta"):
        second = xl.open_clip({param.ldm: torch.empty(param.shape) for param in size.text()[1]})
    shapes: Shapes = {xl.UNET + param.ldm: param.shape for param in size.unet()}
    shapes |= {xl.TE1 + param.ldm: param.shape for param in size.text()[0]}
    shapes |= {xl.TE2 + key: tuple(value.shape) for key, value in second.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorax.checkpoint.layouts.open_tensors", lambda path: HeaderOnly(shapes))
        return open_checkpoint("base.safetensors")


@pytest.mark.parametrize("kind", xl.SIZES)
def test_builders_tell_the_truth(kind: str) -> None:
    size = xl.SIZES[kind]
    assert {p.diffusers: p.shape for p in size.unet()} == {k: tuple(v.shape) for k, v in unet(kind).state_dict().items()}
    for model, width, layers, params in zip(
        (CLIPTextModel, CLIPTextModelWithProjection), (size.first, size.second), size.text_layers, size.text(), strict=True
    ):
        config = CLIPTextConfig(
            vocab_size=size.vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 16,
        )
        with torch.device("meta"):
            state = model(config).state_dict()
        found = {key.removeprefix("text_model."): tuple(value.shape) for key, value in state.items() if "position_ids" not in key}
        assert found == {p.ldm.removeprefix("text_model."): p.shape for p in params}


def test_without_a_middle_block_at_all() -> None:
    """SSD-1B is configured so, by ``mid_block_type=None``."""
    params = [p for p in xl.SSD.unet() if not p.ldm.startswith("middle_block")]
    assert UNetNames.from_ldm(p.ldm for p in params) == UNetNames.from_diffusers(p.diffusers for p in params)
    assert families.detect({p.ldm: p.shape for p in params}) is families.SDXL


@pytest.mark.parametrize("kind", xl.SIZES)
def test_family_from_either_layout(kind: str) -> None:
    assert families.detect({p.ldm: p.shape for p in xl.SIZES[kind].unet()}) is families.SDXL
    assert families.detect({p.diffusers: p.shape for p in xl.SIZES[kind].unet()}) is families.SDXL


def test_a_refiner_is_not_sdxl() -> None:
    """The refiner's four levels are (384, 768, 1536, 1536) wide; the two in the middle have attention of depth 4."""
    with torch.device("meta"):
        refiner = UNet2DConditionModel(
            block_out_channels=(64, 96, 128, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            use_linear_projection=True,
            transformer_layers_per_block=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=224,
        )
    shapes = {key: tuple(value.shape) for key, value in refiner.state_dict().items()}
    names = UNetNames.from_diffusers(shapes)
    assert families.detect(shapes) is families.SDXL_REFINER
    assert families.detect({names.to_ldm(key): shape for key, shape in shapes.items()}) is families.SDXL_REFINER


@pytest.mark.parametrize("kind", xl.SIZES)
@pytest.mark.parametrize("naming", xl.NAMINGS)
def test_every_naming_finds_every_layer(kind: str, naming: str) -> None:
    base, size = checkpoint(kind), xl.SIZES[kind]
    assert base.layers == {layer: param.shape for layer, param in xl.layers(size).items()}
    for layer in base.layers:
        assert base.names.get(xl.spelled(layer, size, naming)) == layer


@pytest.mark.parametrize("kind", xl.SIZES)
def test_written_names_are_kohyas(kind: str) -> None:
    base = checkpoint(kind)
    assert {base.names.kohya(layer): layer for layer in base.layers} == {
        xl.spelled(layer, xl.SIZES[kind], "kohya"): layer for layer in base.layers
    }


def test_the_layers_that_kohya_trains() -> None:
    """722 in the UNet, 12 and 32 text layers of six linear ones each (sd-scripts, ``networks/lora.py`` on SDXL)."""
    layers = xl.trained(xl.FULL)
    assert [sum(layer.startswith(f"{component}.") for layer in layers) for component in ("unet", "te1", "te2")] == [722, 72, 192]
    assert set(layers) <= checkpoint("sdxl").layers.keys()


@pytest.mark.parametrize("naming", ["kohya", "kohya-diffusers"])
def test_attention_keys_as_diffusers_resolves_them(naming: str) -> None:
    """diffusers' loader and lorax must agree on which module a key means, in the UNet and in both text encoders."""
    base, names = checkpoint("sdxl"), xl.trained(xl.FULL)
    state = {}
    for layer in names:
        for part in ("lora_down", "lora_up"):
            name = xl.spelled(layer, xl.FULL, naming)
            state[f"{name}.{part}.weight"] = name
    mapped = lora_keys._maybe_map_sgm_blocks_to_diffusers(state, unet("sdxl").config)
    converted, _ = lora_keys._convert_non_diffusers_lora_to_diffusers(mapped)
    oracle = {module(key): name for key, name in converted.items() if ".down." in key}
    assert len(oracle) == len(names)
    for theirs, name in oracle.items():
        assert base.names[name] == base.names[theirs]


def module(key: str) -> str:
    """A module's name in PEFT from diffusers' older spelling of a LoRA layer."""
    path = key.removesuffix(".down.weight").replace(".lora_linear_layer", "").replace(".processor.", ".").removesuffix(".lora")
    if path.startswith("unet."):
        return re.sub(r"to_out_lora$", "to_out.0", path).removesuffix("_lora")
    for ours, theirs in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
        path = path.replace(f"{theirs}_lora", ours)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_the_second_encoder_is_read_as_diffusers_converts_it(tmp_path: Path, suffix: str) -> None:
    state = xl.base()
    base = open_checkpoint(xl.save(state, tmp_path / f"base{suffix}"))
    tower = {xl.TE2 + key: value for key, value in xl.open_clip(xl.text(state, "te2")).items()}
    converted = convert_open_clip_checkpoint(SimpleNamespace(config=SimpleNamespace()), tower, xl.TE2)
    assert not {key for key in converted if re.search(r"in_proj|resblocks", key)}
    found = {layer.removeprefix("te2."): base.stored(layer) for layer in base.layers if layer.startswith("te2.")}
    expected = {
        key.removesuffix(".weight"): value
        for key, value in converted.items()
        if key.endswith(".weight") and value.dim() == 2 and "embedding" not in key
    }
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name
