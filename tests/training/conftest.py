"""The bundled base, in the models that a trainer would have loaded, and an adapter that was trained in it for a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

if find_spec("diffusers"):
    from lorax.demo.bundle import BASE, FINETUNE, unpack
    from lorax.runner.runner import Runner
    from lorax.training import ATTENTION, CONVOLUTION, TEXT, Network, Settings, inject
else:
    collect_ignore_glob = ["test_*.py"]

ALL = "|".join([ATTENTION, CONVOLUTION, TEXT]) if find_spec("diffusers") else ""
FEW = (
    r"unet\.input_blocks\.[14]\..*(attn1\.to_q|attn2\.to_k|proj_in|in_layers\.2|emb_layers\.1)"
    r"|te\..*\.0\.mlp\.fc1|unet\.input_blocks\.3\.0\.op"
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled checkpoints."""
    folder = tmp_path_factory.mktemp("bundled")
    unpack(folder)
    return folder


@pytest.fixture
def runner(models: Path) -> Runner:
    runner = Runner(models / f"{BASE}.safetensors")
    runner.unet.requires_grad_(False)
    runner.text_encoder.requires_grad_(False)
    return runner


@pytest.fixture
def finetune(models: Path) -> Path:
    return models / f"{FINETUNE}.safetensors"


@pytest.fixture
def network(runner: Runner) -> Iterator[Callable[..., Network]]:
    """``network(layers, settings)`` injects into the runner's models."""

    def make(layers: str = FEW, settings: Settings | None = None, random: bool = True) -> Network:
        made = inject(runner.base, runner.unet, [runner.text_encoder], layers=layers, settings=settings)
        if random:
            randomise(made)
        return made

    return make


def randomise(network: nn.Module) -> None:
    made = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=made))


def predict(runner: Runner) -> torch.Tensor:
    """What the UNet says with gradients, for a fixed input."""
    made = torch.Generator().manual_seed(6)
    latents = torch.randn(2, 4, 8, 8, generator=made)
    ids = runner.tokenizer(["a cat", "a red car"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    return runner.unet(latents, torch.tensor([100, 700]), runner.text_encoder(ids)[0], return_dict=False)[0]
