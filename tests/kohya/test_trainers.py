"""sd-scripts' own trainers train, continue, merge and save LoRA-X adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.kohya.trainers import SCRIPTS, Folder

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="LORAX_SD_SCRIPTS_DIR is not set: the trainers of sd-scripts are not run")
if SCRIPTS:
    from lorax.checkpoint import open_checkpoint
    from lorax.formats import open_adapter, ranks
    from lorax.runner import Runner
    from tests.kohya import models

SD1 = "train_network.py", [64, 64, 64, 64]
SDXL = "sdxl_train_network.py", [32]


@pytest.fixture(scope="session")
def sd1(folder: Folder) -> Path:
    return models.sd1(folder.checkpoint, folder.path / "sd1")


@pytest.fixture(scope="session")
def small(folder: Folder, sd1: Path) -> Path:
    arguments = "--network_args", "core=diagonal", "rank_share=0.25"
    return folder.train(*SD1, sd1, "small", *arguments, "--gradient_checkpointing", "--save_precision=fp16", steps=4)


@pytest.fixture(scope="session")
def full(folder: Folder, sd1: Path) -> Path:
    arguments = "--network_args", "core=full", "rank_share=0.1", "ranks=.*attn2.*=0.05", "conv=true"
    rates = "--text_encoder_lr", "1e-3", "--unet_lr", "2e-3"
    return folder.train(*SD1, sd1, "full", *arguments, *rates, "--mixed_precision=bf16", "--network_dropout=0.1")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata())


def test_the_small_form_acts_on_the_checkpoint_it_was_trained_on(folder: Folder, small: Path) -> None:
    """The folder that was trained on and the checkpoint file hold the same base."""
    tensors = load_file(small)
    assert {key.rpartition(".")[2] for key in tensors} == {"lorax_core", "lorax_probe"}
    assert small.stat().st_size < 100_000
    base = open_checkpoint(folder.checkpoint)
    adapter = open_adapter(small)
    assert adapter.header is not None
    assert adapter.header.fingerprint == base.identity.fingerprint(layer for layer in adapter.layers_of(base).values() if layer)
    assert sum(dW.norm() > 0 for dW in adapter.deltas_of(base).values()) > 150
    runner = Runner(folder.checkpoint)
    latents, times = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    alone = runner.predict(latents, times, runner.encode(["a red cat"]))
    with runner.adapted(small):
        assert not torch.allclose(runner.predict(latents, times, runner.encode(["a red cat"])), alone, atol=1e-3)


def test_the_metadata_is_that_of_sd_scripts_and_ours(small: Path) -> None:
    said = metadata(small)
    assert said["ss_network_module"] == "lorax.training.kohya"
    assert json.loads(said["ss_network_args"])["rank_share"] == "0.25"
    assert (said["ss_network_dim"], said["ss_steps"], said["ss_base_model_version"]) == ("16", "4", "sd_v1")
    assert json.loads(said["ss_tag_frequency"]) == {"4_cat": {"a red cat": 4}}
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert (said["lorax_source_model"], said["lorax_core"]) == ("sd1", "diagonal")


def test_a_full_core_with_convolutions_and_ranks_of_its_own(folder: Folder, full: Path) -> None:
    adapter = open_adapter(full)
    assert adapter.in_subspace
    assert set(ranks(adapter)) == {3, 6}
    assert any("resnets" in name for name in adapter.layers)
    assert "unet" in folder.said or "textencoder" in folder.said


def test_training_goes_on_and_a_file_is_merged_before(folder: Folder, sd1: Path, full: Path) -> None:
    """``--dim_from_weights`` takes layers and ranks from the file; ``--base_weights`` adds another to the model."""
    known = "--network_weights", str(full), "--dim_from_weights", "--base_weights", str(full)
    further = folder.train(*SD1, sd1, "further", *known, "--mixed_precision=bf16", "--full_bf16")
    before, after = open_adapter(full), open_adapter(further)
    assert after.layers.keys() == before.layers.keys()
    base = open_checkpoint(sd1)
    changed = 0
    for layer, dW in after.deltas_of(base).items():
        was = before.deltas_of(base)[layer]
        changed += not torch.allclose(dW.up @ dW.down * dW.scale, was.up @ was.down * was.scale, atol=1e-4)
    assert changed > 100


def test_a_small_file_goes_on_as_a_plain_lora(folder: Folder, sd1: Path, small: Path) -> None:
    plain = folder.train(*SD1, sd1, "plain", "--network_weights", str(small), "--dim_from_weights", "--network_args", "form=lora")
    adapter = open_adapter(plain)
    assert adapter.header is None
    assert set(ranks(adapter)) == {16}


def test_sd2(folder: Folder) -> None:
    base = models.sd2(folder.tokenizer, folder.path / "sd2")
    path = folder.train(*SD1, base, "v2", "--v2", "--network_dim=4")
    said, adapter = metadata(path), open_adapter(path)
    assert said["ss_base_model_version"] == "sd_v2"
    assert said["lorax_family"] == "sd2"
    deltas = adapter.deltas_of(open_checkpoint(base))
    assert {layer.partition(".")[0] for layer in deltas} == {"unet", "te"}
    assert set(ranks(adapter)) == {4}
    assert sum(dW.norm() > 0 for dW in deltas.values()) > 150


def test_sdxl_with_a_rate_for_each_text_encoder(folder: Folder) -> None:
    base = models.sdxl(folder.tokenizer, folder.path / "sdxl")
    rates = "--text_encoder_lr", "1e-3", "2e-3"
    path = folder.train(*SDXL, base, "xl", "--network_dim=4", *rates, "--no_half_vae")
    opened, adapter = open_checkpoint(base), open_adapter(path)
    assert metadata(path)["ss_base_model_version"] == "sdxl_base_v1-0"
    assert set(ranks(adapter)) == {4}
    deltas = adapter.deltas_of(opened)
    assert {layer.partition(".")[0] for layer in deltas} == {"unet", "te1", "te2"}
    assert len(deltas) > 800
