"""The lab's checkpoints against what others read and wrote: diffusers' converters, and SDXL's key names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open

from lab import ldm, vae, xl
from lab.models import Model, new_text_encoder, new_unet
from lorax.checkpoint import families
from lorax.demo.bundle import BUNDLE

TOKENIZER = BUNDLE / "tokenizer"


@pytest.fixture(scope="module")
def state() -> tuple[xl.XLModel, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = xl.new_xl()
    return model, ldm.state_of(model, vae.new())


def test_the_second_text_encoder_is_in_open_clips_layout(state: tuple[xl.XLModel, dict[str, torch.Tensor]]) -> None:
    model, tensors = state
    prefix = "conditioner.embedders.1.model."
    back = convert_open_clip_checkpoint(model.text_encoder_2, tensors, prefix)
    original = {key: value for key, value in model.text_encoder_2.state_dict().items() if not key.endswith("position_ids")}
    assert back.keys() == original.keys()
    assert all(torch.equal(back[key], value) for key, value in original.items())
    names = {key.removeprefix(prefix) for key in tensors if key.startswith(prefix)}
    assert {name for name in names if not name.startswith("transformer.")} == {
        "positional_embedding",
        "token_embedding.weight",
        "ln_final.weight",
        "ln_final.bias",
        "text_projection",
        "logit_scale",
    }
    assert {name.removeprefix("transformer.resblocks.1.") for name in names if name.startswith("transformer.resblocks.1.")} == {
        *("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "attn.in_proj_weight", "attn.in_proj_bias"),
        *("attn.out_proj.weight", "attn.out_proj.bias"),
        *("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
    }
    assert tensors[f"{prefix}text_projection"].shape == (xl.SECOND, xl.SECOND)
    assert torch.equal(tensors[f"{prefix}text_projection"], model.text_encoder_2.text_projection.weight.T)


def test_the_rest_is_where_sdxl_has_it(state: tuple[xl.XLModel, dict[str, torch.Tensor]]) -> None:
    _, tensors = state
    parts = {key.split(".")[0] for key in tensors}
    assert parts == {"model", "conditioner", "first_stage_model"}
    for key in (
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        "model.diffusion_model.output_blocks.2.2.conv.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.2.self_attn.q_proj.weight",
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
        "first_stage_model.decoder.up.3.upsample.conv.weight",
        "first_stage_model.encoder.mid.attn_1.proj_out.weight",
    ):
        assert key in tensors
    unet = {key.removeprefix(p): value.shape for key, value in tensors.items() if key.startswith(p := "model.diffusion_model.")}
    assert families.detect(unet) is families.SDXL


def test_diffusers_reads_unet_and_autoencoder_back(state: tuple[xl.XLModel, dict[str, torch.Tensor]]) -> None:
    model, tensors = state
    unet = convert_ldm_unet_checkpoint(dict(tensors), dict(model.unet.config) | {"class_embed_type": None})
    original = model.unet.state_dict()
    assert unet.keys() == original.keys()
    assert all(torch.equal(unet[key], value) for key, value in original.items())
    autoencoder = vae.new()
    tensors = ldm.vae_state(autoencoder)
    back = convert_ldm_vae_checkpoint(dict(tensors), autoencoder.config)
    assert back.keys() == autoencoder.state_dict().keys()
    assert all(torch.equal(back[key].squeeze(), value.squeeze()) for key, value in autoencoder.state_dict().items())


def test_the_configuration_is_sgms(tmp_path: Path) -> None:
    model, autoencoder = xl.new_xl(), vae.new()
    path = tmp_path / "xl.safetensors"
    ldm.write_checkpoint(path, model, autoencoder, TOKENIZER)
    params = yaml.safe_load(path.with_suffix(".yaml").read_text())["model"]["params"]
    network = params["network_config"]["params"]
    assert network["adm_in_channels"] == xl.SECOND + xl.TIME_IDS * xl.TIME_WIDTH
    assert (network["num_classes"], network["use_linear_in_transformer"]) == ("sequential", True)
    assert (network["model_channels"], network["channel_mult"], network["attention_resolutions"]) == (64, [1, 1, 1], [4, 2])
    assert (network["transformer_depth"], network["context_dim"], network["num_head_channels"]) == ([1, 2, 4], 160, 16)
    first, second, *sizes = params["conditioner_config"]["params"]["emb_models"]
    assert first["params"] == {
        "version": (tmp_path / "tokenizer").as_posix(),
        "max_length": 77,
        "layer": "hidden",
        "layer_idx": 2,
    }
    assert (second["params"]["layer"], second["params"]["always_return_pooled"]) == ("penultimate", True)
    assert [(size["input_key"], size["params"]) for size in sizes] == [
        ("original_size_as_tuple", {"outdim": 16}),
        ("crop_coords_top_left", {"outdim": 16}),
        ("target_size_as_tuple", {"outdim": 16}),
    ]
    pruned = xl.XLModel(model.text_encoder, model.text_encoder_2, xl.pruned_from(model.unet))
    assert "transformer_depth: [1, 2, 4]" in ldm.config_of(pruned, autoencoder), "what a host builds before it prunes"


def test_both_kinds_of_model_are_written(tmp_path: Path) -> None:
    for model, encoders in ((Model(new_text_encoder(), new_unet()), 1), (xl.new_xl(), 2)):
        path = tmp_path / str(encoders) / "model.safetensors"
        ldm.write_checkpoint(path, model, vae.new(), TOKENIZER)
        assert len(list((path.parent / "tokenizer").glob("config*.json"))) == encoders
        with safe_open(str(path), framework="pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
