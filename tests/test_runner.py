"""Models from one file: the structure that is read off the header, and predictions that equal the original's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lab import data, ldm, ldm_xl, vae, xl
from lab.models import CONTEXT, Model, new_text_encoder, new_unet
from lorax.demo.bundle import BASE, BUNDLE, FINETUNE, PRUNED, STYLE, unpack
from lorax.formats import open_adapter
from lorax.layers import UNetNames
from lorax.runner import Conditioning, Runner
from lorax.runner.settings import DEFAULTS, Settings, settings_of
from lorax.runner.text import load_text_encoder
from lorax.runner.unet import load_unet, unet_config
from lorax.runner.vae import load_vae
from lorax.tensors import open_tensors

TOKENIZER = BUNDLE / "tokenizer"
SD1 = Settings(size=8, heads=4, head_channels=0, latent_scale=1.0)
XL = Settings(size=8, heads=0, head_channels=16, latent_scale=1.0)
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
    added = {"text_embeds": torch.randn(2, xl.SECOND), "time_ids": xl.time_ids(2)}
    expected, found = (one(x, times, context, added_cond_kwargs=added, return_dict=False)[0] for one in (unet, loaded))
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("structure", [{"transformer_layers_per_block": (1, 2, 10)}, SSD_1B], ids=["sdxl", "ssd-1b"])
def test_full_size(structure: dict) -> None:
    with torch.device("meta"):
        original = UNet2DConditionModel(**SDXL_FULL | structure)
    there = UNetNames.from_diffusers(original.state_dict())
    paths = {there.to_ldm(key): tuple(value.shape) for key, value in original.state_dict().items()}
    names = UNetNames.from_ldm(paths)
    config = unet_config({names.to_diffusers(path): shape for path, shape in paths.items()}, DEFAULTS["sdxl"], 1280)
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


@torch.no_grad()
def test_the_second_text_encoder(tmp_path: Path) -> None:
    """Its projection is not square here, so that a transposition shows."""
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
    whole = Conditioning.joined([runner.encode([prompt]) for prompt in prompts])
    assert torch.allclose(whole.context, conditioning.context, atol=1e-5)
    assert torch.allclose(whole.pooled, conditioning.pooled, atol=1e-5)
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
    pooled = model.text_encoder_2(xl.padded_with_zeros(tokens)).text_embeds
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
            found = runner._weight(f"{component}.text_model.{path_in_encoder}")
            assert torch.equal(found, state[f"{path_in_encoder}.weight"])


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled")
    unpack(folder)
    return folder


@pytest.mark.parametrize("name", [BASE, FINETUNE, PRUNED])
@torch.no_grad()
def test_the_bundled_models_are_what_diffusers_reads(bundled: Path, name: str) -> None:
    path = bundled / f"{name}.safetensors"
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
def test_an_adapter_is_added_and_taken_away_in_half_precision(bundled: Path) -> None:
    runner = Runner(bundled / f"{BASE}.safetensors", dtype=torch.float16)
    assert {weight.dtype for part in (runner.unet, runner.text_encoder) for weight in part.parameters()} == {torch.float16}
    assert runner.vae.dtype is torch.float32
    path = BUNDLE / "loras" / f"{STYLE}-{BASE}.safetensors"
    adapter = open_adapter(path)
    name, layer = next((name, layer) for name, layer in adapter.layers_of(runner.base).items() if layer)
    before, delta = runner._weight(layer).clone(), adapter.delta(name)
    dW = delta.scale * (delta.up @ delta.down).reshape(before.shape)
    with runner.adapted(path, 2.0):
        assert torch.allclose(runner._weight(layer).float(), before.float() + 2 * dW, atol=2e-3)
    assert torch.equal(runner._weight(layer), before)
    x, times, prompts = torch.randn(1, 4, 8, 8), torch.tensor([300]), ["guitar"]
    whole = Runner(bundled / f"{BASE}.safetensors")
    expected, found = (one.predict(x, times, one.encode(prompts)) for one in (whole, runner))
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_checkpoint_without_a_yaml_has_its_familys_settings(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    ldm.write_checkpoint(path, Model(new_text_encoder(), new_unet()), vae.new(), TOKENIZER)
    file = open_tensors(path)
    assert settings_of(file, "sd1") == Settings(size=8, heads=4, head_channels=0, latent_scale=0.18215)
    path.with_suffix(".yaml").unlink()
    assert settings_of(file, "sd1") == Settings(size=64, heads=8, head_channels=0, latent_scale=0.18215)
    assert settings_of(file, "sdxl") == Settings(size=128, heads=0, head_channels=64, latent_scale=0.13025)
    assert load_vae(file, 0.5).config["scaling_factor"] == 0.5
    assert Runner(path).unet.mid_block.attentions[0].transformer_blocks[0].attn1.heads == 8
