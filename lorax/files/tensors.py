"""Named tensors in a file. The header is read when the file is opened, each tensor when it is asked for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from lorax.errors import LoraxError, is_out_of_memory, reading

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
HEADER = 32 << 20  # bytes of a header: most have some hundred thousand, and a few a picture of some million
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2}
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
    with reading(path, "a file of tensors"):
        if not path.is_file():
            raise LoraxError(f"{path}: no such file. Check the path.")
        _ = str(path).encode()  # the libraries that read it take no other names
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
                raise LoraxError(
                    f"{path}: not a whole safetensors file ({error}). It may be truncated or renamed; download or copy it again."
                ) from error

    def get(self, key: str) -> torch.Tensor:
        with reading(f"{self.path}: {key}", "a tensor"):
            tensor: torch.Tensor = self._file.get_tensor(key)
        return tensor


class PickleFile:
    """A ``.ckpt`` or ``.pt`` file, which is mapped if its format allows it. Raises LoraxError if it is damaged or holds code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        try:
            state = _load_pickle(path)
        except Exception as error:  # a damaged pickle can make the unpickler raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LoraxError(
                f"{path}: refused, since it holds more than plain tensors or is damaged ({reason[:200]}). "
                "Convert it to .safetensors with a tool that you trust."
            ) from error
        state = state.get("state_dict", state) if isinstance(state, dict) else {}
        self._state = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
        if odd := next((key for key, value in self._state.items() if not _is_plain(value)), None):
            raise LoraxError(
                f"{path}: {odd} is not a plain tensor, but sparse, nested, quantized, expanded or without data. "
                "Convert the file to .safetensors with a tool that you trust."
            )
        self.shapes = {key: tuple(value.shape) for key, value in self._state.items()}
        if not self.shapes:
            raise LoraxError(f"{path}: holds no tensors. Expected a checkpoint or an adapter.")

    def get(self, key: str) -> torch.Tensor:
        return self._state[key]


def is_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, in any floating point dtype."""
    values = values if values.element_size() > 1 else values.float()
    # A value that is not finite shows in the sum, which takes a twentieth of the time. The sum of finite values may overflow too.
    return bool(torch.isfinite(values.sum()) or torch.isfinite(values).all())


def _check_header(path: Path) -> None:
    """Raise LoraxError if the header alone would take the memory, and OSError if the file may not be read."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if HEADER < length < path.stat().st_size:
        raise LoraxError(f"{path}: its header has {length >> 20} MB, and at most {HEADER >> 20} MB are read. It is damaged.")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether all values of the tensor are stored, so that reading it takes no more memory than the file has."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized and not tensor.is_nested
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _load_pickle(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of old pickles; users read our errors
        try:
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)  # torch < 2.3 maps no Path
        except RuntimeError:  # files in torch's format from before 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
