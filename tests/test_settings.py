"""Alphas that are kept outside the tensors, and the device that is computed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.options import Options

UNET = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def save(path: Path, settings: dict) -> Path:
    tensors = {}
    for layer in (UNET, TEXT):
        tensors |= {f"{layer}.lora_A.weight": torch.ones(4, 8), f"{layer}.lora_B.weight": torch.ones(8, 4)}
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(settings)})
    return path


def test_each_component_has_its_own_alpha(tmp_path: Path) -> None:
    adapter = open_adapter(save(tmp_path / "a.safetensors", {"unet.lora_alpha": 16, "text_encoder.lora_alpha": 4}))
    assert adapter.delta(UNET).scale == 4
    assert adapter.delta(TEXT).scale == 1


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "8", True])
def test_an_alpha_that_is_no_number_is_refused(tmp_path: Path, alpha: object) -> None:
    adapter = open_adapter(save(tmp_path / "a.safetensors", {"unet.lora_alpha": alpha}))
    with pytest.raises(LoraxError, match="alpha"):
        adapter.delta(UNET)


@pytest.mark.parametrize("wrong", [{"rank": "many"}, {"rank": "0"}, {"method": "magic"}, {"threshold": 2.0}, {"max_rank": 0}])
def test_wrong_options_are_refused_when_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(LoraxError, match="expected"):
        Options(**wrong)


def test_mps_is_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("cpu")
    assert "device mps: it has no float64" in caplog.text
    caplog.clear()
    assert pick_device("cpu") == torch.device("cpu")
    assert caplog.text == ""
