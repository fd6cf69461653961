from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorax.cli import main
from lorax.demo.bundle import unpack
from lorax.subspace import spectral
from lorax.transfer import by_layer
from tests import builders, optional
from tests.lab_models import HEADLINE
from tests.samples import SOURCE_METADATA, Files

torch.set_num_threads(1)
pytest_make_collect_report = optional.pytest_make_collect_report


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the lab's checkpoints. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models")
    unpack(folder)
    unpack(folder, HEADLINE)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what a test writes."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def quick_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw in three steps, for tests that do not ask what the pictures show."""
    monkeypatch.setattr("lorax.models.sampling.STEPS", 3)


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on four pictures a step, for tests that do not ask how much is learned."""
    monkeypatch.setattr("lorax.methods.refine.BATCH", 4)
    monkeypatch.setattr("lorax.methods.bridge.SCALING_BATCH", 4)


@pytest.fixture
def quick_bridge(quick_drawing: None, quick_training: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make bridge fast and less exact, for tests that do not ask how good it is."""
    monkeypatch.setattr("lorax.methods.bridge.ROWS", 256)
    monkeypatch.setattr("lorax.methods.bridge.SCALING_STEPS", 3)


@pytest.fixture
def styled(files: Files, tmp_path: Path) -> Path:
    """A LoRA with metadata, a preview and a card, as it lies in a WebUI's folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    lora = builders.save_lora(folder / "my style.v2.safetensors", files.deltas, metadata=SOURCE_METADATA)
    (folder / "my style.v2.preview.png").write_bytes(b"preview")
    (folder / "my style.v2.jpg").write_bytes(b"image")
    card = {"description": "Paper folds.", "sd version": "SD1", "activation text": "origami", "preferred weight": 0.7}
    (folder / "my style.v2.json").write_text(json.dumps(card))
    return lora


@pytest.fixture
def refused(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a transfer that must be refused; return what it says."""

    def transfer(lora: Path | None = None, source: Path | None = None, target: Path | None = None, *more: str) -> str:
        before = _listing(files.folder, out.parent)
        bases = ["--source", str(source or files.base), "--target", str(target or files.target)]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            code = main(["transfer", str(lora or files.lora), *bases, "--output", str(out / "moved.safetensors"), *more])
        captured = capsys.readouterr()
        assert warned == []
        assert code == 2
        assert captured.out == ""
        assert captured.err.count("error: ") == 1
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err
        assert _listing(files.folder, out.parent) == before
        return captured.err

    return transfer


def _listing(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every layer counts as large; the list has an entry for each eigendecomposition."""
    eigh, calls = torch.linalg.eigh, []
    for module in (by_layer, spectral):
        monkeypatch.setattr(module, "SMALL", 1)
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(len(matrix)) or eigh(matrix))
    return calls
