"""Models from one file: predictions that equal the original's, adapters that leave no trace."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lab import data, ldm, ldm_xl, vae, xl
from lab.models import VOCABULARY, Model, new_text_encoder, new_unet
from lorax.checkpoint import ModelConfig, config_of
from lorax.checkpoint.openclip import padded_with_zeros
from lorax.demo.bundle import BASE, BUNDLE, FINETUNE, PRUNED
from lorax.files import open_tensors
from lorax.formats import open_adapter
from lorax.runner import Runner
from lorax.runner.runner import Conditioning
from lorax.runner.text import load_text_encoder
from lorax.runner.unet import time_ids
from lorax.runner.vae import load_vae
from tests.lab_models import LORA

TOKENIZER = BUNDLE / "tokenizer"


@torch.no_grad()
def test_the_second_text_encoder(tmp_path: Path) -> None:
    """The projection is not square here, so that a transposition shows."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=128,
        intermediate_size=200,
        projection_dim=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="gelu",
        eos_token_id=98,
    )
    original = CLIPTextModelWithProjection(config).eval()
    path = tmp_path / "text.safetensors"
    state = ldm_xl.text_encoder_2_state(original)
    assert state[f"{ldm_xl.PREFIX}text_projection"].shape == (128, 48)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    loaded = load_text_encoder(open_tensors(path), ldm_xl.PREFIX, tmp_path / "none.json")
    tokens = torch.cat([torch.randint(90, (2, 76)), torch.tensor([[98], [98]])], dim=1)
    expected, found = (one(tokens, output_hidden_states=True) for one in (original, loaded))
    assert torch.allclose(expected.text_embeds, found.text_embeds, atol=1e-5)
    assert torch.allclose(expected.hidden_states[-2], found.hidden_states[-2], atol=1e-5)


@pytest.fixture
def xl_model(tmp_path: Path) -> tuple[xl.XLModel, Path]:
    torch.manual_seed(0)
    model = xl.new_xl().eval()
    ldm.write_checkpoint(tmp_path / "xl.safetensors", model, vae.new(), TOKENIZER, torch.float32)
    return model, tmp_path / "xl.safetensors"


@pytest.mark.parametrize("pruned", [False, True])
@torch.no_grad()
def test_sdxl_predicts_as_the_lab(xl_model: tuple[xl.XLModel, Path], pruned: bool) -> None:
    model, path = xl_model
    if pruned:
        model = xl.XLModel(model.text_encoder, model.text_encoder_2, xl.pruned_from(model.unet)).eval()
        ldm.write_checkpoint(path, model, vae.new(), TOKENIZER, torch.float32)
    runner = Runner(path)
    assert runner.size == data.SIZE // 8
    prompts = ["guitar", "", "a koala and a rocket"]
    tokens = runner.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    latents, times = torch.randn(3, 4, 8, 8), torch.tensor([3, 400, 990])
    conditioning = runner.encode(prompts)
    assert conditioning.pooled is not None
    expected, found = model(latents, times, tokens), runner.predict(latents, times, conditioning)
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    for place, alone in enumerate(runner.encode([prompt]) for prompt in prompts):
        assert torch.allclose(alone.context[0], conditioning.context[place], atol=1e-5)
        assert torch.allclose(alone.pooled[0], conditioning.pooled[place], atol=1e-5)
    pictures = runner.sample(prompts[:1], [1], steps=2)
    assert pictures.shape == (1, 3, data.SIZE, data.SIZE)
    assert torch.isfinite(pictures).all()


@torch.no_grad()
def test_the_pooled_text_and_the_size_reach_the_unet(xl_model: tuple[xl.XLModel, Path]) -> None:
    """Against diffusers' call by hand, with columns for the pooled text that are not zero."""
    model, path = xl_model
    torch.nn.init.normal_(model.unet.add_embedding.linear_1.weight)
    ldm.write_checkpoint(path, model, vae.new(), TOKENIZER, torch.float32)
    runner = Runner(path)
    conditioning = runner.encode(["guitar", "koala"])
    latents, times = torch.randn(2, 4, 8, 16), torch.tensor([3, 400])
    tokens = runner.tokenizer(["guitar", "koala"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    pooled = model.text_encoder_2(padded_with_zeros(tokens, VOCABULARY - 1)).text_embeds
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64, 128, 0, 0, 64, 128]] * 2)}
    expected = model.unet(latents, times, conditioning.context, added_cond_kwargs=added, return_dict=False)[0]
    assert torch.allclose(runner.predict(latents, times, conditioning), expected, atol=1e-5)
    assert not torch.allclose(runner.predict(latents, times, Conditioning(conditioning.context, 2 * pooled)), expected, atol=1e-3)


def test_layers_of_both_text_encoders(xl_model: tuple[xl.XLModel, Path]) -> None:
    model, path = xl_model
    runner = Runner(path)
    for component, encoder in (("te1", model.text_encoder), ("te2", model.text_encoder_2)):
        state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
        for layer in ("self_attn.k_proj", "self_attn.out_proj", "mlp.fc1"):
            path_in_encoder = f"encoder.layers.1.{layer}"
            found = runner.weight(f"{component}.text_model.{path_in_encoder}")
            assert torch.equal(found, state[f"{path_in_encoder}.weight"])


@pytest.mark.parametrize("name", [BASE, FINETUNE, PRUNED])
@torch.no_grad()
def test_the_bundled_models_are_what_diffusers_reads(models: Path, name: str) -> None:
    path = models / f"{name}.safetensors"
    runner, config = Runner(path), str(path.with_suffix(".yaml"))
    unet = UNet2DConditionModel.from_single_file(str(path), original_config=config).float().eval()
    conditioning, x, times = runner.encode(["guitar", "koala"]), torch.randn(2, 4, 8, 8), torch.tensor([5, 800])
    expected = unet(x, times, conditioning.context, return_dict=False)[0]
    assert (runner.predict(x, times, conditioning) - expected).abs().max() < 1e-6
    autoencoder = AutoencoderKL.from_single_file(str(path), original_config=config).float().eval()
    found = runner.vae.decode(x, return_dict=False)[0]
    assert (found - autoencoder.decode(x, return_dict=False)[0]).abs().max() < 1e-6
    assert runner.vae.config["scaling_factor"] == autoencoder.config["scaling_factor"]


@torch.no_grad()
def test_an_adapter_is_added_and_taken_away_in_half_precision(models: Path) -> None:
    runner = Runner(models / f"{BASE}.safetensors", dtype=torch.float16)
    assert {weight.dtype for part in (runner.unet, runner.text_encoder) for weight in part.parameters()} == {torch.float16}
    assert runner.vae.dtype is torch.float32
    path = LORA
    adapter = open_adapter(path)
    name, layer = next((name, layer) for name, layer in adapter.layers_of(runner.base).items() if layer)
    before, delta = runner.weight(layer).clone(), adapter.delta(name)
    dW = delta.scale * (delta.up @ delta.down).reshape(before.shape)
    with runner.adapted(path, 2.0):
        assert torch.allclose(runner.weight(layer).float(), before.float() + 2 * dW, atol=2e-3)
    assert torch.equal(runner.weight(layer), before)
    x, times, prompts = torch.randn(1, 4, 8, 8), torch.tensor([300]), ["guitar"]
    whole = Runner(models / f"{BASE}.safetensors")
    expected, found = (one.predict(x, times, one.encode(prompts)) for one in (whole, runner))
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sdxl", [False, True])
@torch.no_grad()
def test_weights_are_the_same_bits_after_an_adapter(sdxl: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """They are so also if the block fails. Meanwhile no adapted weight is held a second time."""
    torch.manual_seed(0)
    model = xl.new_xl() if sdxl else Model(new_text_encoder(), new_unet())
    ldm.write_checkpoint(tmp_path / "base.safetensors", model, vae.new(), TOKENIZER, torch.float32)
    runner = Runner(tmp_path / "base.safetensors", dtype=dtype)
    adapter, layers = tmp_path / "adapter.safetensors", list(runner.base.layers)
    save_adapter(adapter, runner, layers)
    weights = {layer: runner.weight(layer) for layer in layers}
    assert any(weight.shape[2:] == (1, 1) for weight in weights.values())
    assert any(layer.startswith("te2.") and layer.endswith("k_proj") for layer in layers) is sdxl  # a third of a tensor
    before = {layer: weight.clone() for layer, weight in weights.items()}
    held = tensor_bytes()
    with runner.adapted(adapter):
        assert not any(torch.equal(weights[layer], before[layer]) for layer in layers)
        assert tensor_bytes() - held < sum(weight.nbytes for weight in weights.values()) / 4
    assert all(torch.equal(weights[layer], before[layer]) for layer in layers)
    with pytest.raises(ZeroDivisionError), runner.adapted(adapter, -0.5):
        raise ZeroDivisionError
    assert all(torch.equal(weights[layer], before[layer]) for layer in layers)


def tensor_bytes() -> int:
    """Count the bytes of all tensors that are alive; those that share memory count once."""
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return sum({one.data_ptr(): one.nbytes for one in tensors}.values())


def save_adapter(path: Path, runner: Runner, layers: list[str]) -> None:
    tensors = {}
    for layer in layers:
        (m, n, *kernel), name = runner.base.layers[layer], runner.base.names.kohya(layer)
        tensors[f"{name}.lora_up.weight"] = torch.randn(m, 2, *(1 for _ in kernel))
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, n, *kernel)
    save_file(tensors, path)


def test_what_sdxl_is_given_besides_the_prompt() -> None:
    ids = torch.tensor([[8, 5, 9, 9, 9], [8, 9, 9, 9, 9], [8, 5, 6, 7, 9]])
    expected = [[8, 5, 9, 0, 0], [8, 9, 0, 0, 0], [8, 5, 6, 7, 9]]
    assert padded_with_zeros(ids, 9).tolist() == expected
    assert time_ids(2, 64, 128).tolist() == [[64, 128, 0, 0, 64, 128]] * 2


def test_a_checkpoint_without_a_yaml_has_its_familys_settings(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    ldm.write_checkpoint(path, Model(new_text_encoder(), new_unet()), vae.new(), TOKENIZER)
    file = open_tensors(path)
    assert config_of(file, "sd1") == ModelConfig(size=8, heads=4, head_channels=0, latent_scale=0.18215)
    path.with_suffix(".yaml").unlink()
    assert config_of(file, "sd1") == ModelConfig(size=64, heads=8, head_channels=0, latent_scale=0.18215)
    assert config_of(file, "sdxl") == ModelConfig(size=128, heads=0, head_channels=64, latent_scale=0.13025)
    assert load_vae(file, 0.5).config["scaling_factor"] == 0.5
    assert Runner(path).unet.mid_block.attentions[0].transformer_blocks[0].attn1.heads == 8
