"""Pickled files: no code in them runs, and what is not a plain tensor is refused by name."""

from __future__ import annotations

import codecs
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError, NotEnoughMemory
from lorax.files import opcodes, open_tensors
from tests import builders
from tests.pickling import Call, Storage, dumped
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


def test_a_pickle_for_which_memory_is_short_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    torch.save({"a": torch.ones(4)}, tmp_path / "whole.ckpt")
    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(NotEnoughMemory, match=r"whole\.ckpt: not enough memory to read it"):
        open_tensors(tmp_path / "whole.ckpt")


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.nn.Parameter(torch.ones(4, 4))}}, tmp_path / "trained.ckpt")
    assert not open_tensors(tmp_path / "trained.ckpt").get("a").requires_grad


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


def nested(depth: int) -> object:
    """A tuple that is small as a pickle and whose hash takes 2 ** depth steps."""
    found: object = (1, 2)
    for _ in range(depth):
        found = (found, found)
    return found


def claiming(count: int, size: object = (1,), *, built: bool = False) -> bytes:
    """A tensor of ``size`` in a storage of ``count`` values; built, as torch's oldest format has it, which may enlarge it."""
    storage = Storage(count)
    made = dumped(Call(torch._utils._rebuild_tensor_v2, storage, 0, size, (1,), False, {}))
    return made[:-1] + dumped([storage, 0, (2**31,), (1,)])[2:-1] + b"b." if built else made


BOMBS = {
    "a call of builtins bytearray": lambda: b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R.",
    "a call of __builtin__ bytearray": lambda: pickle.dumps({"a": Call(bytearray, 2**31)}, 2),
    "a call of torch.storage UntypedStorage": lambda: pickle.dumps({"a": Call(torch.UntypedStorage, 2**31)}, 2),
    "a call of torch FloatTensor": lambda: pickle.dumps({"a": Call(torch.FloatTensor, 2**31)}, 2),
    "a call of torch._tensor _rebuild_from_type_v2": lambda: pickle.dumps(
        {"a": Call(torch._tensor._rebuild_from_type_v2, bytearray, torch.Tensor, (2**31,), {})}, 2
    ),
    "a call of _codecs encode": lambda: pickle.dumps({"a": Call(codecs.encode, "\u20ac" * 100_000, "punycode")}, 2),
    "a call of what is no function": lambda: b"\x80\x02](K\x01e)R.",
    "a tuple of more than 1000 values": lambda: pickle.dumps({"a": nested(100)}, 2),
    "a tuple as a key": lambda: pickle.dumps({(1, 2): 3}, 2),
    "opcodes that torch does not load": lambda: pickle.dumps({"a": 1 << 5000}, 2),
    "expected 2147483647 bytes": lambda: b"\x80\x02X\xff\xff\xff\x7fabc.",
    "more than 1000000 opcodes": lambda: b"\x80\x02" + b"]" * 1_000_000,
    "tensors that are larger than the file": lambda: claiming(2**40),
    "a damaged reference": lambda: claiming(-1),
    "a tensor that is larger than its values": lambda: claiming(4, (2**31,)),
    "a damaged tensor": lambda: claiming(4, [2**31]),
    "something that is no container": lambda: claiming(4, built=True),
    "something else than a tensor's values": lambda: b"\x80\x02K\x01Q.",
    "without its operands": lambda: b"\x80\x02R.",
    "without its mark": lambda: b"\x80\x02t.",
}


def in_zip(content: bytes, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


def in_legacy(content: bytes, path: Path) -> Path:
    head = b"".join(pickle.dumps(one, 2) for one in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}))
    return write(path, head + content + pickle.dumps([], 2))


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *given, **options: pytest.fail("loaded"))


@pytest.mark.parametrize("container", [in_zip, in_legacy])
@pytest.mark.parametrize("why", BOMBS)
def test_what_takes_too_much_is_refused_before_it_is_loaded(
    tmp_path: Path, not_loaded: None, why: str, container: Callable[[bytes, Path], Path]
) -> None:
    with pytest.raises(LoraxError, match=rf"bad\.pt: refused, .*{why}"):
        open_tensors(container(BOMBS[why](), tmp_path / "bad.pt"))


def test_zip_bombs_are_refused_before_they_are_loaded(files: Files, tmp_path: Path, not_loaded: None) -> None:
    path = tmp_path / "bad.pt"
    in_zip(b"\0" * 1000, path, zipfile.ZIP_DEFLATED)
    with pytest.raises(LoraxError, match=r"compressed record archive/data.pkl"):
        open_tensors(path)
    whole = in_zip(pickle.dumps({}, 2), path).read_bytes()
    write(path, whole[:-2] + b"\x07\0comment")
    with pytest.raises(LoraxError, match="a comment at its end"):
        open_tensors(path)
    write(path, whole.replace(len(pickle.dumps({}, 2)).to_bytes(4, "little") * 2, (len(whole) + 1).to_bytes(4, "little") * 2))
    with pytest.raises(LoraxError, match="records that are larger than the file"):
        open_tensors(path)
    with tarfile.open(path, "w") as tar:  # the oldest format, which torch unpacks before it looks at it
        tar.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(LoraxError, match="refused"):
        open_tensors(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_training_tools_keep_beside_tensors_is_loaded(tmp_path: Path, is_zip: bool) -> None:
    """An optimizer's state, counters, sizes, settings, a parameter and tensors of all kinds."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": OrderedDict(model.state_dict()) | {"half": torch.ones(2).half(), "whole": torch.ones(2, dtype=torch.int64)},
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "seed": 2**63,
        "loss": 0.5,
        "settings": {"betas": (0.9, 0.999), "names": ["a", "b"], "size": torch.Size((2, 3)), "dtype": torch.float16},
        "nothing": [None, torch.empty(0), torch.ones(2, 3).t(), torch.ones(1).expand(3)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        0: True,
    }
    torch.save(content, tmp_path / "good.pt", _use_new_zipfile_serialization=is_zip)
    assert open_tensors(tmp_path / "good.pt").shapes == {"weight": (2, 3), "bias": (2,), "half": (2,), "whole": (2,)}


def test_bytes_are_plain_data() -> None:
    """Torch loads them since 2.3 or so; pickled, they are a call with the name of an encoding."""
    opcodes.follow(io.BytesIO(pickle.dumps({"bytes": b"\xff\0abc"}, 2)), 1000)
