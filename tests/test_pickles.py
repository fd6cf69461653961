"""Pickled files: no code in them runs, and what is not a plain tensor is refused by name."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorax.checkpoint import open_checkpoint
from lorax.files import open_tensors
from tests import builders
from tests.samples import Files, write

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


class Payload:
    """Pickled, it is a call to os.system, which unpickling without care would run."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("role", ["lora", "source", "target"])
@pytest.mark.parametrize("container", ["zip", "legacy", "plain pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, refused: Callable[..., str], role: str, container: str) -> None:
    proof, bad = tmp_path / "it-ran", tmp_path / "bad.ckpt"
    content = {"state_dict": {f"{builders.UNET}out.2.weight": torch.ones(4)}, "payload": Payload(f"touch {proof}")}
    if container == "plain pickle":
        bad.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, bad, _use_new_zipfile_serialization=container == "zip")
    message = refused(**{role: bad})
    assert "bad.ckpt: refused" in message
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 not a zip", b"hello", pickle.dumps({}), pickle.dumps([1])])
def test_pickles_of_nothing(tmp_path: Path, refused: Callable[..., str], content: bytes) -> None:
    bad = write(tmp_path / "bad.ckpt", content)
    for role in ("lora", "source"):
        assert "bad.ckpt: " in refused(**{role: bad})


def test_pickle_with_keys_that_are_no_names(tmp_path: Path, refused: Callable[..., str]) -> None:
    torch.save({0: torch.ones(2), 1: torch.ones(3)}, tmp_path / "bad.ckpt")
    assert "bad.ckpt: holds no tensors" in refused(lora=tmp_path / "bad.ckpt")


NOT_PLAIN = {
    "sparse": lambda: torch.eye(32)[:4].to_sparse(),
    "expanded": lambda: torch.ones(1).expand(4, 32),
    "enormous": lambda: torch.ones(1).expand(4, 10**12),
    "meta": lambda: torch.empty(4, 32, device="meta"),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_tensors_that_are_not_plain(files: Files, tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    key = f"{NAME}.lora_down.weight"
    torch.save(load_file(files.lora) | {key: NOT_PLAIN[kind]()}, tmp_path / "bad.pt")
    assert f"bad.pt: {key} is not a plain tensor" in refused(lora=tmp_path / "bad.pt")
    key = f"{builders.UNET}out.2.weight"
    torch.save(files.base_state | {key: NOT_PLAIN[kind]()}, tmp_path / "bad.ckpt")
    assert f"bad.ckpt: {key} is not a plain tensor" in refused(target=tmp_path / "bad.ckpt")


def test_views_are_plain(files: Files, tmp_path: Path) -> None:
    """Tensors that share a storage, or see a part of it, are common in checkpoints."""
    whole = torch.arange(64.0).reshape(8, 8)
    torch.save({"a": whole[:2], "b": whole.mT, "c": torch.arange(8).expand((1, -1))}, tmp_path / "views.pt")
    file = open_tensors(tmp_path / "views.pt")
    assert torch.equal(file.get("a"), whole[:2])
    assert torch.equal(file.get("b"), whole.mT)


def test_pickles_are_mapped(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch before 2.3 maps a file only if ``torch.load`` gets its name as a str."""
    named, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda f, **options: (named.append((f, options["mmap"])), load(f, **options))[1])
    path = builders.save(files.base_state, tmp_path / "base.ckpt")
    assert open_checkpoint(path).layers
    assert named == [(str(path), True)]
