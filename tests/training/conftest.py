"""The bundled base, in the models that a trainer would have loaded, and an adapter that was trained in it for a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("diffusers"):
    from lorax.demo.bundle import BASE, FINETUNE
    from lorax.runner import Runner
    from lorax.training import Network, Settings, inject
    from tests.training.networks import FEW, randomise
else:
    collect_ignore_glob = ["test_*.py"]


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
