"""sd-scripts' own modules as oracles: its DyLoRA at the full rank, and its OFT, with a constraint that binds and without."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.formats import open_adapter
from tests import builders
from tests.kohya.trainers import SCRIPTS
from tests.structure import TINY

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="LORAX_SD_SCRIPTS_DIR is not set: sd-scripts' modules are not compared with")
LAYERS = (  # linear, and convolutions without and with a kernel
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.proj_in",
    "mid_block.resnets.0.conv1",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(builders.save(builders.base(), tmp_path_factory.mktemp("base") / "base.safetensors"))


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [SCRIPTS, *sys.path])


def sides(base: Checkpoint) -> dict[str, torch.nn.Module]:
    """Layer -> a module with its weight."""
    names = {param.diffusers: param.ldm for param in TINY.unet()}
    made = {}
    for path in LAYERS:
        layer = "unet." + names[f"{path}.weight"].removesuffix(".weight")
        W = base.stored(layer).float()
        m, n, *kernel = W.shape
        made[layer] = torch.nn.Conv2d(n, m, kernel, padding=kernel[0] // 2) if kernel else torch.nn.Linear(n, m)
        made[layer].weight.data.copy_(W)
    return made


def assert_acts_alike(base: Checkpoint, file: Path, adapted: dict[str, torch.nn.Module]) -> None:
    """What our deltas do to an input is what the modules, which are applied, do to it beside the base's own layers."""
    deltas = open_adapter(file).deltas_of(base)
    assert deltas.keys() == adapted.keys()
    for layer, module in sides(base).items():
        W = module.weight.data
        x = torch.randn(2, W.shape[1], *([8, 8] if W.dim() == 4 else []))
        with torch.no_grad():
            expected = adapted[layer](x)
            module.bias = adapted[layer].bias
            module.weight.data = W + (deltas[layer].scale * deltas[layer].up @ deltas[layer].down).reshape(W.shape)
            found = module(x)
        assert (found - expected).norm() < 1e-5 * expected.norm(), layer


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("unit", [1, 2])
def test_dylora(base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: int) -> None:
    from networks.dylora import DyLoRAModule

    adapted, state = sides(base), {}
    for layer, module in adapted.items():
        name = base.names.kohya(layer)
        made = DyLoRAModule(name, module, lora_dim=4, alpha=2.0, unit=unit)
        for parameter in [*made.lora_A, *made.lora_B]:
            parameter.data = torch.randn(parameter.shape) * 0.3
        made.apply_to()
        state |= {f"{name}.alpha": made.alpha}
        state |= {key: value.contiguous() for key, value in made.state_dict().items() if key.startswith(name)}  # as a LoRA's
    save_file(state, tmp_path / "a.safetensors")
    monkeypatch.setattr(random, "randint", lambda low, high: high)  # the rank of this step
    assert_acts_alike(base, tmp_path / "a.safetensors", adapted)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("constraint", [1e-3, 10.0])
def test_oft(base: Checkpoint, tmp_path: Path, constraint: float) -> None:
    from networks.oft import OFTModule

    adapted, state = sides(base), {}
    for layer, module in adapted.items():
        name = base.names.kohya(layer).replace("lora_unet_", "oft_unet_")
        made = OFTModule(name, module, dim=4, alpha=constraint)
        made.oft_blocks.data = torch.randn(made.oft_blocks.shape) * 0.1
        made.apply_to()
        state |= {f"{name}.{key}": value for key, value in made.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    assert_acts_alike(base, tmp_path / "a.safetensors", adapted)
