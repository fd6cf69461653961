from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax.cli import main
from lorax.subspace import spectral
from lorax.transfer import by_layer
from tests import builders

torch.set_num_threads(1)
# Of the extras, of which the WebUI's own environments have few: a module of tests that cannot be imported without one is skipped.
OPTIONAL = ("diffusers", "hypothesis", "jinja2", "lycoris", "peft", "rich", "tokenizers", "transformers")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    missing = re.search(r"^E +ModuleNotFoundError: No module named '(\w+)", str(report.longrepr), re.MULTILINE)
    if report.outcome == "failed" and missing and missing[1] in OPTIONAL:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"needs {missing[1]}")
    return report


SOURCE_METADATA = {
    "ss_tag_frequency": '{"10_origami": {"paper": 3}}',
    "ss_output_name": "style",
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "old.safetensors",
    "ss_new_sd_model_hash": "0" * 64,
    "ss_network_dim": "128",
    "ss_network_alpha": "64",
    "ss_network_module": "lycoris.kohya",
    "sshs_model_hash": "1" * 64,
    "sshs_legacy_hash": "12345678",
    "modelspec.title": "Style",
    "modelspec.hash_sha256": "0x" + "2" * 64,
    "modelspec.trigger_phrase": "origami",
}


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


@pytest.fixture
def quick_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not ask how well it does: most of its time goes into solving layers and fitting their scales."""
    monkeypatch.setattr("lorax.methods.bridge.ROWS", 256)
    monkeypatch.setattr("lorax.methods.refine.SCALING", 3)


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


def arguments(files: Files, lora: Path | None = None, target: Path | None = None) -> list[str]:
    return [str(lora or files.lora), "--source", str(files.base), "--target", str(target or files.target)]


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


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def raw(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every layer counts as large; the list has an entry for each eigendecomposition."""
    eigh, calls = torch.linalg.eigh, []
    for module in (by_layer, spectral):
        monkeypatch.setattr(module, "SMALL", 1)
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(len(matrix)) or eigh(matrix))
    return calls
