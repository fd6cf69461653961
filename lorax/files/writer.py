"""Writes safetensors files tensor by tensor, so that only one of them is held."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from lorax.errors import LoraxError
from lorax.files.hashing import LEGACY, MEBIBYTE, Hashes, legacy_of

# Names in the header. Tensors of the last dtype come first in the file.
NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
ORDER = {dtype: number for number, dtype in enumerate(NAMES)}
ALIGNMENT, SPARE = 8, 32  # bytes


class TensorWriter:
    """A safetensors file whose tensors come in any order, and its header last. It is laid out as safetensors itself does it.

    ``outlines``: tensors of the sizes and dtypes to come, which may be on the device ``meta``. ``draft``: metadata that is at
    most ``SPARE`` bytes shorter than what comes. Raises LoraxError if there is no name for a dtype in such a file.
    """

    def __init__(self, path: Path, outlines: Mapping[str, torch.Tensor], draft: Mapping[str, str]) -> None:
        if odd := next((key for key, tensor in outlines.items() if tensor.dtype not in NAMES), None):
            raise LoraxError(f"{path}: {odd} holds {outlines[odd].dtype} values, which a safetensors file cannot hold.")
        self._entries, self._size = dict[str, dict[str, Any]](), 0
        for key in sorted(outlines, key=lambda key: (-ORDER[outlines[key].dtype], key)):
            tensor = outlines[key]
            begin, self._size = self._size, self._size + tensor.numel() * tensor.element_size()
            self._entries[key] = {"dtype": NAMES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, self._size]}
        self._begin = len(self._header(draft, SPARE))
        self._file = path.open("wb+")

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def put_all(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors."""
        for key, tensor in tensors.items():
            self._file.seek(self._begin + self._entries[key]["data_offsets"][0])
            self._file.write(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header."""
        header = self._header(metadata)
        assert len(header) <= self._begin
        self._file.seek(0)
        self._file.write(self._header(metadata, self._begin - len(header)))

    def hashes(self, metadata: Mapping[str, str]) -> Hashes:
        """Return the hashes of the file if its header had this metadata: of all tensors, and the legacy one."""
        header, whole = self._header(metadata), hashlib.sha256()
        for chunk in self._chunks(0, self._size):
            whole.update(chunk)
        begin = max(0, MEBIBYTE - len(header))
        second = header[MEBIBYTE:] + b"".join(self._chunks(begin, begin + LEGACY))
        return Hashes(whole.hexdigest(), legacy_of(second))

    def _chunks(self, begin: int, end: int) -> Iterator[bytes]:
        end = min(end, self._size)
        self._file.seek(self._begin + begin)
        for at in range(begin, end, MEBIBYTE):
            yield self._file.read(min(MEBIBYTE, end - at))

    def _header(self, metadata: Mapping[str, str], spare: int = 0) -> bytes:
        """Return the header, with blanks up to where tensors may begin."""
        named = {"__metadata__": metadata} if metadata else {}
        text = json.dumps(named | self._entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * spare
        text += b" " * (-len(text) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text
