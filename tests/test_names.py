"""Whole key lists of SD 1.x, SDXL and their pruned siblings, with diffusers' own converters as the independent oracle."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils as lora_keys
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from lorax.checkpoint import Checkpoint, UNetNames, block_of, families, open_checkpoint
from tests import builders, structure, xl
from tests.tensor_files import HeaderOnly

SIZES = {"full": structure.FULL, "pruned": structure.FULL_PRUNED}
ALL_SIZES: dict[str, Any] = SIZES | xl.SIZES
Shapes = dict[str, tuple[int, ...]]


@cache
def unet(blocks: int) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, layers_per_block=blocks)


@cache
def diffusers_shapes(blocks: int) -> Shapes:
    return {key: tuple(value.shape) for key, value in unet(blocks).state_dict().items()}


@cache
def text_shapes() -> Shapes:
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
    names = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    return {f"text_model.{key}": tuple(value.shape) for key, value in names.items() if not key.endswith("position_ids")}


@cache
def checkpoint(kind: str) -> Checkpoint:
    """The full-size base, opened by its LDM header."""
    size = SIZES[kind]
    shapes = {builders.UNET + p.ldm: p.shape for p in size.unet()} | {builders.TE + p.ldm: p.shape for p in size.text()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorax.checkpoint.layouts.open_tensors", lambda path: HeaderOnly(shapes))
        return open_checkpoint("base.safetensors")


@pytest.mark.parametrize("kind", SIZES)
def test_builders_tell_the_truth(kind: str) -> None:
    """Everything else rests on the key lists in builders.py, so they are held against the real models."""
    size = SIZES[kind]
    assert {p.diffusers: p.shape for p in size.unet()} == diffusers_shapes(size.blocks)
    assert {p.diffusers: p.shape for p in size.text()} == text_shapes()


@pytest.mark.parametrize("kind", ALL_SIZES)
def test_ldm_to_diffusers_as_diffusers_converts(kind: str) -> None:
    size = ALL_SIZES[kind]
    told = {"layers_per_block": 2, "addition_embed_type": "text_time"} if kind in xl.SIZES else {"layers_per_block": size.blocks}
    names = UNetNames.from_ldm(p.ldm for p in size.unet())
    # The converter moves values to new keys, so the LDM key itself is a value that survives the trip.
    state = {builders.UNET + p.ldm: p.ldm for p in size.unet()}
    converted = convert_ldm_unet_checkpoint(state, told)
    assert len(converted) == len(size.unet())
    assert {names.to_diffusers(ldm): ldm for ldm in converted.values()} == converted


@pytest.mark.parametrize("kind", ALL_SIZES)
def test_round_trip_from_both_layouts(kind: str) -> None:
    params = ALL_SIZES[kind].unet()
    from_ldm, from_diffusers = UNetNames.from_ldm(p.ldm for p in params), UNetNames.from_diffusers(p.diffusers for p in params)
    assert from_ldm == from_diffusers
    for p in params:
        assert from_ldm.to_diffusers(p.ldm) == p.diffusers
        assert from_ldm.to_ldm(p.diffusers) == p.ldm


def test_standard_and_pruned_are_told_apart() -> None:
    assert checkpoint("full").unet_names.is_standard()
    assert not checkpoint("pruned").unet_names.is_standard()


def test_samplers_are_looked_at_too() -> None:
    """Only the sampler's name tells that a level is not standard if its attention or its last residual block is gone."""
    full = {p.ldm for p in structure.FULL.unet()}
    rest = {path for path in full if not path.startswith("output_blocks.5.1.")}
    no_attention = {path.replace("output_blocks.5.2.", "output_blocks.5.1.") for path in rest}
    assert UNetNames.from_ldm(full).is_standard()
    assert not UNetNames.from_ldm(no_attention).is_standard()
    one_level = ["input_blocks.1.0.in_layers.2.weight", "input_blocks.2.0.op.weight"]
    assert not UNetNames.from_ldm(one_level).is_standard()
    assert UNetNames.from_ldm(["input_blocks.1.0.in_layers.2.weight", "input_blocks.3.0.op.weight"]).is_standard()


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("naming", ["kohya", "kohya-te1", "compvis", "peft", "diffusers"])
def test_every_naming_finds_every_layer(kind: str, naming: str) -> None:
    names, params = checkpoint(kind).names, [p for p in (*SIZES[kind].unet(), *SIZES[kind].text()) if p.is_layer]
    assert {_delta(p).layer for p in params} == set(checkpoint(kind).layers)
    assert {_delta(p).named(naming): _delta(p).layer for p in params} == {
        name: names.get(name) for name in (_delta(p).named(naming) for p in params)
    }


def test_the_layers_that_kohya_trains() -> None:
    base = checkpoint("full")
    blocks = [p for p in structure.FULL.unet() if p.is_layer and ".attentions." in p.diffusers]
    text = [layer for layer in base.layers if layer.startswith("te.")]
    assert len(blocks) == 192
    assert len(text) == 72
    assert {base.names.kohya(_delta(p).layer) for p in blocks} == {_delta(p).named("kohya") for p in blocks}
    assert all(base.names.kohya(layer) == "lora_te_" + layer[3:].replace(".", "_") for layer in text)


def test_written_names_are_found_again() -> None:
    for kind in SIZES:
        base = checkpoint(kind)
        assert {base.names[base.names.kohya(layer)] for layer in base.layers} == set(base.layers)


@pytest.mark.parametrize(("kind", "naming"), list(itertools.product(SIZES, ["kohya", "compvis"])))
def test_attention_keys_as_diffusers_resolves_them(kind: str, naming: str) -> None:
    """diffusers' loader and lorax must agree on which module a key means."""
    size, base = SIZES[kind], checkpoint(kind)
    found = [_delta(p) for p in size.unet() if p.is_layer and ".attentions." in p.diffusers]
    state = {}
    for delta in found:
        for part in ("lora_down", "lora_up"):
            state[f"{delta.named(naming)}.{part}.weight"] = delta.named(naming)
    mapped = lora_keys._maybe_map_sgm_blocks_to_diffusers(state, unet(size.blocks).config)
    converted, _ = lora_keys._convert_non_diffusers_lora_to_diffusers(mapped)
    oracle = {_module(key): name for key, name in converted.items() if ".down." in key}
    assert len(oracle) == len(found)
    for module, name in oracle.items():
        assert base.names[name] == f"unet.{base.unet_names.to_ldm(module)}"


def test_text_encoder_keys_as_diffusers_resolves_them() -> None:
    base, state = checkpoint("full"), {}
    for layer in (layer for layer in base.layers if layer.startswith("te.")):
        for part in ("lora_down", "lora_up"):
            state[f"{base.names.kohya(layer)}.{part}.weight"] = layer
    converted, _ = lora_keys._convert_non_diffusers_lora_to_diffusers(state)
    modules = {_text_module(key): layer for key, layer in converted.items() if ".down." in key}
    assert len(modules) == 72
    assert all(base.names[module] == layer for module, layer in modules.items())


def test_blocks() -> None:
    assert block_of("unet.input_blocks.1.1.transformer_blocks.0.attn1.to_q") == "unet.input_blocks.1.1.transformer_blocks.0"
    assert block_of("unet.input_blocks.8.1.transformer_blocks.12.ff.net.2") == "unet.input_blocks.8.1.transformer_blocks.12"
    assert block_of("unet.middle_block.1.proj_in") == "unet.middle_block.1"
    assert block_of("te.text_model.encoder.layers.11.mlp.fc1") == "te.text_model.encoder.layers.11"
    assert block_of("te2.text_model.encoder.layers.11.mlp.fc1") == "te2.text_model.encoder.layers.11"
    assert block_of("unet.time_embed.0") == "unet.time_embed.0"


@pytest.mark.parametrize("kind", SIZES)
def test_family_from_either_layout(kind: str) -> None:
    assert families.detect({p.ldm: p.shape for p in SIZES[kind].unet()}) is families.SD1
    assert families.detect(diffusers_shapes(SIZES[kind].blocks)) is families.SD1


def _delta(param: structure.Param) -> builders.Delta:
    """Make a layer of an adapter that has names and no values."""
    ldm, diffusers, empty = param.ldm.removesuffix(".weight"), param.diffusers.removesuffix(".weight"), torch.empty(0)
    return builders.Delta(ldm, diffusers, empty, empty, None, None, empty.numpy())


def _module(key: str) -> str:
    """``unet.a.attn1.processor.to_out_lora.down.weight`` -> ``a.attn1.to_out.0``: undo diffusers' spelling of LoRA layers."""
    path = key.removeprefix("unet.").removesuffix(".down.weight").replace(".processor.", ".")
    if path.endswith("_lora"):
        return path.removesuffix("_lora").replace("to_out", "to_out.0")
    return path.removesuffix(".lora")


def _text_module(key: str) -> str:
    path = key.removesuffix(".down.weight").replace(".lora_linear_layer", "")
    for ours, theirs in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
        path = path.replace(f"{theirs}_lora", ours)
    return path


def test_paths_of_the_other_layout_are_not_in_the_blocks() -> None:
    names = UNetNames.from_ldm(["input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight"])
    assert names.has_ldm("input_blocks.1.0.in_layers.2")
    assert not names.has_ldm("mid_block.resnets.0.conv1")
    assert names.has_diffusers("mid_block.resnets.0.conv1")
    assert not names.has_diffusers("input_blocks.1.0.in_layers.2")


def test_the_inverse_is_made_once() -> None:
    class Counted(dict[str, str]):
        listed = 0

        def items(self) -> Any:
            self.listed += 1
            return super().items()

    blocks = Counted(UNetNames.from_ldm(["input_blocks.1.0.in_layers.2.weight"]).blocks)
    names = UNetNames(blocks)
    for _ in range(3):
        assert names.to_ldm("down_blocks.0.resnets.0.conv1") == "input_blocks.1.0.in_layers.2"
    assert blocks.listed == 1
