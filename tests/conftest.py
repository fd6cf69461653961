from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import builders

torch.set_num_threads(1)


class Files:
    """A family of tiny bases and a LoRA of the first, written once for all tests. Tests must not change them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_state = builders.base()
        self.target_state = builders.relative(self.base_state)
        self.pruned_state = builders.pruned(self.base_state)
        self.base = builders.save(self.base_state, folder / "base.safetensors")
        self.target = builders.save(self.target_state, folder / "target.safetensors")
        self.pruned = builders.save(self.pruned_state, folder / "pruned.safetensors")
        self.stranger = builders.save(builders.base(seed=77), folder / "stranger.safetensors")
        self.deltas = builders.deltas(builders.SOME + builders.CONVOLUTIONS + builders.TEXT)
        self.lora = builders.save_lora(folder / "style.safetensors", self.deltas)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what a test writes."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
