"""Named tensors in a file. The header is read when the file is opened, each tensor when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from lorax.errors import LoraxError
from lorax.files.pickles import PickleFile

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
Stamp = tuple[str, int, int]  # path, size, time of the last change


def stamp(path: Path) -> Stamp:
    """A value that changes if the file is replaced."""
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def title_of(path: Path) -> str:
    """The name of a model at ``path`` for users: a file's without its suffix, a folder's whole, since it may hold dots."""
    return path.name if path.is_dir() else path.stem


class TensorFile(Protocol):
    """A lazy mapping of names to tensors, in the dtype in which they are stored. ``shapes``: name -> shape."""

    path: Path
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def get(self, key: str) -> torch.Tensor:
        """The tensor of this name. Raises LoraxError if it cannot be read."""


def open_tensors(path: Path) -> TensorFile:
    """Open a ``.safetensors`` file by its header, or a pickled checkpoint through weights-only loading.

    Raises LoraxError if the file is missing, truncated, not what its name says, or holds code.
    """
    if not path.is_file():
        raise LoraxError(f"{path}: no such file. Check the path.")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return SafetensorsFile(path)
    if suffix in PICKLES:
        return PickleFile(path)
    raise LoraxError(f"{path}: expected a .safetensors, .ckpt or .pt file, or a diffusers folder.")


class Part(NamedTuple):
    """The place of one parameter in a file: a tensor, some of its rows, or its transpose."""

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
        """A view of the mapped file; rows that are not used are not read. Raises LoraxError if it is not floating point."""
        tensor = self.file.get(self.key)
        if not tensor.is_floating_point():
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
        try:
            self._file = safe_open(str(path), framework="pt")
            self.metadata: dict[str, str] = self._file.metadata() or {}
            self.shapes = {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise LoraxError(
                f"{path}: not a whole safetensors file ({error}). It may be truncated or renamed; download or copy it again."
            ) from error

    def get(self, key: str) -> torch.Tensor:
        try:
            tensor: torch.Tensor = self._file.get_tensor(key)
        except SafetensorError as error:
            raise LoraxError(f"{self.path}: cannot read {key} ({error}).") from error
        return tensor


def is_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, in any floating point dtype."""
    values = values if values.element_size() > 1 else values.float()
    # A value that is not finite shows in the sum, which takes a twentieth of the time. The sum of finite values may overflow too.
    return bool(torch.isfinite(values.sum()) or torch.isfinite(values).all())
