"""Opens files of named tensors by their headers. Each tensor is read when needed."""

import os
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from lorax.errors import AGAIN, LoraxError, is_out_of_memory, reading
from lorax.files.pickles import PickleFile
from lorax.files.texts import json_object
from lorax.files.writer import NAMES

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
HEADER = 32 << 20  # bytes of a header: most have some hundred thousand, and a few a picture of some million
TYPES = {*NAMES.values(), "U16", "U32", "U64"}  # that every version of safetensors knows
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2}
Stamp = tuple[str, int, int]  # path, size, time of the last change


def stamp(path: Path) -> Stamp:
    """Return a value that changes if the file is replaced."""
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def title_of(path: Path) -> str:
    """Return a model's name for users: a file's without its suffix, or a folder's, which may contain dots."""
    return path.name if path.is_dir() else path.stem


class TensorFile(Protocol):
    """A lazy mapping of names to tensors in their stored dtype."""

    path: Path
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def get(self, key: str) -> torch.Tensor:
        """Return the tensor of this name. Raises LoraxError if it cannot be read."""


def open_tensors(path: Path) -> TensorFile:
    """Open a ``.safetensors`` file, or a pickle without its code. Raises LoraxError if it is missing, damaged or unsafe."""
    with reading(path, "a file of tensors"):
        if not path.is_file():
            raise LoraxError(f"{path}: no such file. Check the path.")
        _ = str(path).encode()  # the libraries that read it take no other names
        path.open("rb").close()  # what may not be read is not damaged
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return SafetensorsFile(path)
    if suffix in PICKLES:
        return PickleFile(path)
    raise LoraxError(f"{path}: expected a .safetensors, .ckpt or .pt file, or a diffusers folder.")


class Part(NamedTuple):
    """One parameter in a file: a tensor, some of its rows, or its transpose."""

    file: TensorFile
    key: str
    rows: slice | None = None
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.file.shapes[self.key]
        if self.rows is not None:
            shape = len(range(shape[0])[self.rows]), *shape[1:]
        return shape[::-1] if self.transposed else shape

    def get(self) -> torch.Tensor:
        """Return a view of the mapped file, so that unused rows are not read. Raises LoraxError if it is not floating point."""
        tensor = self.file.get(self.key)
        if tensor.dtype not in FLOATS:
            raise LoraxError(
                f"{self.file.path}: {self.key} holds {tensor.dtype} values; expected floating point numbers. "
                "Quantized checkpoints cannot be read: use an fp16 or fp32 copy."
            )
        if self.rows is not None:
            tensor = tensor[self.rows]
        return tensor.transpose(0, -1) if self.transposed else tensor


class SafetensorsFile:
    """A ``.safetensors`` file, which is mapped. Raises LoraxError if it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, "a safetensors file"):
            _check_header(path)
            try:
                self._file = safe_open(str(path), framework="pt")
                self.metadata: dict[str, str] = self._file.metadata() or {}
                self.shapes = {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118
            except (SafetensorError, ValueError, OverflowError) as error:
                if is_out_of_memory(error):
                    raise
                if odd := _unknown(path):
                    raise LoraxError(
                        f"{path}: {odd[0]} holds {odd[1]} values, which the installed version of safetensors cannot read. Use an "
                        "fp16 or fp32 copy."
                    ) from error
                raise LoraxError(
                    f"{path}: not a whole safetensors file ({error}). It may be truncated or renamed; {AGAIN}"
                ) from error

    def get(self, key: str) -> torch.Tensor:
        with reading(f"{self.path}: {key}", "a tensor"):
            tensor: torch.Tensor = self._file.get_tensor(key)
        return tensor


def read_header(path: Path) -> tuple[bytes, int] | None:
    """Return a safetensors file's header, and how many bytes follow it; None if it is larger than is read, or than the file."""
    with path.open("rb") as stream:
        length, size = int.from_bytes(stream.read(8), "little"), os.fstat(stream.fileno()).st_size
        return (stream.read(length), size - 8 - length) if 0 < length <= min(HEADER, size - 8) else None


def is_finite(values: torch.Tensor) -> bool:
    """Tell whether no value is NaN or infinite, in any floating point dtype."""
    values = values if values.element_size() > 1 else values.float()
    # A sum takes a twentieth of the time, and is not finite if a value is not. But the sum of finite values may overflow too.
    return bool(torch.isfinite(values.sum()) or torch.isfinite(values).all())


def _check_header(path: Path) -> None:
    """Raise LoraxError if the header alone would take the memory, and OSError if the file may not be read."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if HEADER < length < path.stat().st_size:
        raise LoraxError(f"{path}: its header has {length >> 20} MB, and at most {HEADER >> 20} MB are read. It is damaged.")


def _unknown(path: Path) -> tuple[str, str] | None:
    """Return name and type of a tensor that older versions of safetensors do not know: they refuse the whole file for it."""
    if (found := read_header(path)) is None:
        return None
    try:
        entries = json_object(path, found[0], "a header")
    except LoraxError:
        return None
    types = {key: entry.get("dtype") for key, entry in entries.items() if isinstance(entry, dict) and key != "__metadata__"}
    return next(((key, str(kind)) for key, kind in types.items() if kind not in TYPES), None)
