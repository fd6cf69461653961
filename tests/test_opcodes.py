"""Pickles that torch would load, of which a small one would take any amount of time or memory."""

import codecs
import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch

from lorax.files import opcodes
from tests.pickling import Call, Storage, dumped

SIZE = 10_000  # bytes of the file that the pickle is said to be in
Build = Callable[[], object]


def given(count: int = 1, size: int = 1, step: int = 1) -> tuple[object, ...]:
    return Storage(count), 0, (size,), (step,), False, OrderedDict()


def expanded() -> Call:
    """A tensor of 2 ** 40 values, of which one is stored."""
    return Call(torch._utils._rebuild_tensor_v2, *given(size=2**40, step=0))


def with_attributes(names: list[str]) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(torch._tensor._rebuild_from_type_v2, rebuild, torch.Tensor, given(), dict.fromkeys(names, 1))


def encoded(times: int) -> list[Call]:
    text = "x" * 1000
    return [Call(codecs.encode, text, "latin1") for _ in range(times)]


def sparse(values: Call) -> Call:
    places = Call(torch._utils._rebuild_tensor_v2, *given())
    return Call(torch._utils._rebuild_sparse_tensor, torch.strided, (places, values, (4,), False))


REFUSED: dict[str, tuple[str, Build]] = {
    "a size of a tensor's values": ("a call of torch Size", lambda: Call(torch.Size, expanded())),
    "a size of a list": ("a call of torch Size", lambda: Call(torch.Size, [1] * 100)),
    "a size of many axes": ("a call of torch Size", lambda: Call(torch.Size, (1,) * 500)),
    "a tensor of many axes": ("a call of", lambda: Call(torch._utils._rebuild_tensor_v2, Storage(), 0, (1,) * 150, (1,) * 150)),
    "a dict of a tensor's values": ("a call of collections OrderedDict", lambda: Call(OrderedDict, expanded())),
    "a method hidden": ("a state that is not a module's", lambda: Call(OrderedDict, state={"get": torch.Size})),
    "an attribute with a setter": ("a call of torch._tensor _rebuild_from_type_v2", lambda: with_attributes(["real"])),
    "many attributes": ("a call of torch._tensor", lambda: with_attributes([f"a{number}" for number in range(200)])),
    "many values of a sparse tensor": ("a call of torch._utils _rebuild_sparse_tensor", lambda: sparse(expanded())),
    "keys with one hash": ("a key that is too large", lambda: {(2**61 - 1) * number: 0 for number in range(1, 9)}),
    "keys that are floats": ("a float as a key", lambda: {0.5: 0}),
    "one storage of two sizes": ("a damaged reference", lambda: [Storage(1), Storage(100)]),
    "a storage that two readers name differently": ("a damaged reference", lambda: Storage(key="\xe9")),
    "one text, encoded again and again": ("a call of _codecs encode", lambda: encoded(20)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_takes_more_than_the_file_has_is_refused(what: str) -> None:
    why, build = REFUSED[what]
    with pytest.raises(ValueError, match=why):
        opcodes.follow(io.BytesIO(dumped(build())), SIZE)


@pytest.mark.parametrize("code", [b"NK\0s", b"(NK\0u", b"K\0a", b"(K\0e", b"}b"])
def test_items_of_a_tensor_are_refused(code: bytes) -> None:
    """Torch before 2.4 or so sets them, which fills the tensor."""
    with pytest.raises(ValueError, match="something that is no container"):
        opcodes.follow(io.BytesIO(dumped(expanded())[:-1] + code + b"."), SIZE)


def tagged() -> torch.Tensor:
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.tensor_model_parallel = True  # type: ignore[attr-defined]
    return tensor


HARMLESS: dict[str, Build] = {
    "attributes": tagged,
    "expanded": lambda: torch.ones(1).expand(3),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse by rows": lambda: torch.eye(4).to_sparse_csr(),
    "a module's state": lambda: torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict(),
    "keys of all kinds": lambda: {"a": 0, 2: 0, None: 0, True: 0},
    "sizes, devices, layouts": lambda: [torch.Size((2, 3)), torch.device("cuda", 1), torch.device("cpu"), torch.strided],
    "bytes": lambda: b"\xff" * 100,
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_torch_writes_is_followed(what: str) -> None:
    stream = io.BytesIO()
    torch.save(HARMLESS[what](), stream)
    with zipfile.ZipFile(stream) as archive:
        opcodes.follow(archive.open("archive/data.pkl"), SIZE)
