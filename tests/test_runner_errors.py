"""What the runner says about a checkpoint that it cannot run: which file and key, what was expected, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.demo.bundle import BASE
from lorax.errors import LoraxError
from lorax.files import open_tensors
from lorax.runner import Runner
from lorax.runner.vae import load_vae

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TE = "cond_stage_model.transformer.text_model."


@pytest.fixture
def bundled(models: Path) -> Path:
    return models / f"{BASE}.safetensors"


@pytest.fixture
def model(bundled: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(bundled.parent / "tokenizer", tmp_path / "tokenizer")
    shutil.copy(bundled.with_suffix(".yaml"), tmp_path / "model.yaml")
    return Path(shutil.copy(bundled, tmp_path / "model.safetensors"))


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def test_a_tokenizer_is_needed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(LoraxError, match=r"tokenizer: no tokenizer; expected vocab\.json and merges\.txt.*tokenizer argument"):
        Runner(model)
    with pytest.raises(LoraxError, match="elsewhere: no tokenizer"):
        Runner(model, tmp_path / "elsewhere")


def test_the_vocabulary_of_another_model(model: Path) -> None:
    change(model, lambda t: t.update({f"{TE}embeddings.token_embedding.weight": torch.zeros(99, 64)}))
    with pytest.raises(LoraxError, match=r"a vocabulary of 1024 tokens; .*knows 99\. Give the tokenizer folder that belongs"):
        Runner(model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"num_attention_heads": 4, "hidden_size": 768}, "describes an encoder 768 wide with 4 heads; the checkpoint's is 64"),
        ({"text_config": {"num_attention_heads": 5, "hidden_size": 64}}, "64 wide with 5 heads"),
        ({"hidden_size": 64}, "not a text encoder's configuration"),
        ("{", "cannot be read as a text encoder's configuration"),
        ("[" * 100_000, "cannot be read as a text encoder's configuration"),
    ],
)
def test_the_text_encoders_configuration(model: Path, content: object, said: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (model.parent / "tokenizer" / "config.json").write_text(text)
    with pytest.raises(LoraxError, match=rf"config\.json: .*{said}"):
        Runner(model)


def test_a_text_encoder_whose_heads_must_be_told(model: Path) -> None:
    (model.parent / "tokenizer" / "config.json").unlink()
    change(model, spoiled(f"{TE}embeddings.token_embedding.weight", 1024, 200))
    with pytest.raises(LoraxError, match=r"config\.json: no such file, .* is 200 wide; expected a multiple of 64\. Put"):
        Runner(model)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model:", "model: [", "cannot be read as a model's configuration"),
        ("unet_config:", "network:", "cannot be read as a model's configuration"),
        ("num_heads: 4", "num_heads: four", "cannot be read as a model's configuration"),
    ],
)
def test_the_yaml(model: Path, old: str, new: str, said: str) -> None:
    path = model.with_suffix(".yaml")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(LoraxError, match=rf"model\.yaml: .*{said}"):
        Runner(model)


def test_a_yaml_that_says_velocity(model: Path) -> None:
    path = model.with_suffix(".yaml")
    path.write_text(path.read_text().replace("use_ema: false", "parameterization: v"))
    with pytest.raises(LoraxError, match=r"model\.safetensors: the model predicts velocity, not noise"):
        Runner(model)


def test_a_number_of_heads_that_does_not_fit(model: Path) -> None:
    path = model.with_suffix(".yaml")
    path.write_text(path.read_text().replace("num_heads: 4", "num_heads: 7"))
    with pytest.raises(LoraxError, match=r"model\.safetensors: attention with 64 channels cannot have 7 heads\. Put"):
        Runner(model)


def spoiled(key: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({key: torch.zeros(shape)})


def without(part: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if part in key]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (without(TE), "token_embedding.weight is missing. Pictures need a checkpoint with its text encoders"),
        (
            spoiled(f"{TE}embeddings.token_embedding.weight", 64),
            r"token_embedding.weight has shape \(64,\); expected a matrix\. .*use",
        ),
        (spoiled(f"{TE}encoder.layers.0.mlp.fc1.weight"), r"fc1.weight has shape \(\); expected a matrix\. .*use another"),
        (without(f"{TE}encoder.layers.1.mlp.fc2.bias"), "fc2.bias is missing; expected a tensor of shape"),
        (without(f"{UNET}input_blocks.0."), r"the UNet lacks input_blocks.0.0, its first layer\. Use a whole"),
        (without(f"{UNET}out.2."), "the UNet lacks what every Stable Diffusion UNet has .*conv_out.weight"),
        (without(f"{UNET}output_blocks.11."), "diffusers can build no such UNet"),
        (without(f"{UNET}output_blocks.4.1.norm.bias"), "the UNet has no up_blocks.1.attentions.1.norm.bias"),
        (lambda t: t.update({f"{UNET}time_embed.0.scale": torch.ones(1)}), "time_embed.0.scale has no place in the UNet"),
        (lambda t: t.update({f"{UNET}out.0.bias": torch.ones(3)}), r"out.0.bias has shape \(3,\); expected \(64,\)"),
        (lambda t: t.update({f"{UNET}out.0.bias": torch.tensor(1.0)}), r"out.0.bias has shape \(\); expected \(64,\)"),
        (lambda t: t.update({f"{UNET}out.0.bias": torch.ones(64).to(torch.int8)}), "out.0.bias holds torch.int8 values"),
        (lambda t: t.update(v_pred=torch.ones(1)), "predicts velocity, not noise"),
    ],
)
def test_the_checkpoint(model: Path, edit: Callable[[dict[str, torch.Tensor]], object], said: str) -> None:
    change(model, edit)
    with pytest.raises(LoraxError, match=rf"model\.safetensors: .*{said}"):
        Runner(model)


def test_a_missing_autoencoder_is_missed_by_pictures_only(model: Path) -> None:
    change(model, without("first_stage_model."))
    runner = Runner(model)
    runner.predict(torch.zeros(1, 4, 8, 8), torch.tensor(1), runner.encode([""]))
    with pytest.raises(LoraxError, match=r"model\.safetensors: holds no autoencoder"):
        runner.sample([""], [0], steps=1)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (without(f"{VAE}decoder."), "decoder.conv_out.weight is missing; expected a convolution's weight. Pictures need"),
        (without(f"{VAE}encoder.down.0.block.0."), "encoder.down.0.block.0.conv1.weight is missing; expected a convolution's"),
        (without(f"{VAE}decoder.mid.block_1.norm1.bias"), "decoder.mid.block_1.norm1.bias is missing; expected"),
        (spoiled(f"{VAE}encoder.conv_in.weight", 64), r"encoder.conv_in.weight has shape \(64,\); expected a convolution's"),
        (spoiled(f"{VAE}encoder.down.1.block.0.conv1.weight", 40, 64, 3, 3), r"encoder.down.* is \[64, 40, 64, 64\] wide; .*use"),
        (spoiled(f"{VAE}encoder.down.3.block.0.conv1.weight", 0, 64, 3, 3), r"encoder.down.* is \[64, 64, 64, 0\] wide; .*use"),
    ],
)
def test_the_autoencoder(model: Path, edit: Callable[[dict[str, torch.Tensor]], object], said: str) -> None:
    change(model, edit)
    with pytest.raises(LoraxError, match=rf"model\.safetensors: {VAE}{said}"):
        load_vae(open_tensors(model), 1.0)


def test_a_model_for_inpainting(model: Path) -> None:
    change(model, lambda t: t.update({f"{UNET}input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)}))
    with pytest.raises(LoraxError, match=r"model\.safetensors: the UNet takes 9 channels, .*; expected 4\."):
        Runner(model)
