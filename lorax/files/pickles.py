"""Tensors in pickled files, which come from strangers: nothing in them runs, and what they cost is bounded beforehand."""

import io
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import torch

from lorax.errors import LoraxError, is_out_of_memory, reading
from lorax.files import opcodes

LARGEST = 1 << 26  # bytes of a pickle without its tensors; those of large checkpoints take less than one mebibyte
LARGEST_DIRECTORY = 1 << 24  # bytes of an archive's list of records; a tensor takes about 100
PROTOCOL = 1001  # of torch's format from before 1.6
SCRIPT = "constants.pkl"  # of a TorchScript archive. Torch before 2.6 runs that, although only weights were asked for
END, LOCATOR, END_64 = b"PK\5\6", b"PK\6\7", b"PK\6\6"  # what ends a zip archive; the latter two stand before it in large ones


class PickleFile:
    """A ``.ckpt`` or ``.pt`` file, which is mapped if its format allows it. Raises LoraxError if it is damaged or holds code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        with reading(path, "a file of tensors"):
            try:
                state = _load(path)
            except Exception as error:  # a damaged pickle can make the unpickler raise anything
                if is_out_of_memory(error):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise LoraxError(
                    f"{path}: refused, since it holds more than plain tensors or is damaged ({reason[:200]}). "
                    "Convert it to .safetensors with a tool that you trust."
                ) from error
        state = state.get("state_dict", state) if isinstance(state, dict) else {}
        state = state if isinstance(state, dict) else {}
        tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
        self._state = {key: value.detach() for key, value in tensors.items()}  # a parameter would ask for its gradient
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


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether all values of the tensor are stored, so that reading it takes no more memory than the file has."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized and not tensor.is_nested
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _load(path: Path) -> object:
    """Load the file after a check of its container and its opcodes. Only torch's formats of today and before 1.6 are known."""
    with path.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    (_check_zip if is_zip else _check_legacy)(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of old pickles; users read our errors
        if is_zip:
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)  # torch < 2.3 maps no Path
        return torch.load(path, map_location="cpu", weights_only=True)  # cannot be mapped


def _check_zip(path: Path) -> None:
    """Raise ValueError if torch would run a program in the archive, or if reading it could take more than the file has."""
    _check_directory(path)
    size = path.stat().st_size
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise ValueError(f"compressed record {record.filename[:80]}")
        if record.orig_filename.lower().endswith(".pkl") and record.file_size > LARGEST:  # torch ignores case
            raise ValueError(f"a pickle of more than {LARGEST} bytes beside its tensors")
        if _count_of_zip64(record.extra) > 1:
            raise ValueError(f"record {record.filename[:80]} has two sizes or places")
    if sum(record.file_size for record in records) > size:
        raise ValueError("records that are larger than the file")
    with path.open("rb") as stream:
        # Asked of torch's own reader: another can see other names and contents in a file that was made for that.
        reader = torch._C.PyTorchFileReader(stream)
        if SCRIPT in map(str.lower, reader.get_all_records()):
            raise ValueError("a TorchScript program")
        opcodes.follow(io.BytesIO(reader.get_record("data.pkl")), size)


def _count_of_zip64(extra: bytes) -> int:
    """Return how many fields of a record hold its size and place if they exceed 32 bits. Python reads all, torch one."""
    count = 0
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        count, extra = count + (kind == 1), extra[4 + length :]
    return count


def _check_directory(path: Path) -> None:
    """Raise ValueError if the archive's end does not name the directory that lies directly before it.

    Python reads the latter, and torch the one that is named. So Python's sizes are torch's only if the two are the same.
    """
    with path.open("rb") as stream:
        end = stream.seek(0, io.SEEK_END) - 22
        stream.seek(max(0, end - 76))
        tail = stream.read().rjust(98, b"\0")
    record_64, locator, last = tail[:56], tail[56:76], tail[76:]
    if not (last.startswith(END) and last.endswith(b"\0\0")):
        raise ValueError("its end is missing, as after a broken download, or there is a comment at its end")
    length, start = struct.unpack("<II", last[12:20])
    if locator.startswith(LOCATOR):
        end -= 76
        if not record_64.startswith(END_64) or struct.unpack("<Q", locator[8:16]) != (end,):
            raise ValueError("two ends of the archive")
        length, start = struct.unpack("<QQ", record_64[40:56])
    if length > LARGEST_DIRECTORY:
        raise ValueError(f"a directory of more than {LARGEST_DIRECTORY} bytes")
    if start + length != end:
        raise ValueError("two directories of the archive")


def _check_legacy(path: Path) -> None:
    """Raise ValueError if one of the five pickles, which come before the tensors' bytes, is not what it should be."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = io.BytesIO(stream.read(LARGEST))
    if _is_tar(head.getvalue()[: tarfile.BLOCKSIZE]):
        raise ValueError("a tar archive")
    if [opcodes.follow(head, size) for _ in range(2)] != [torch.serialization.MAGIC_NUMBER, PROTOCOL]:
        raise ValueError("not in a format of torch")
    for _ in range(3):  # the system, the state, the tensors' names
        opcodes.follow(head, size)


def _is_tar(block: bytes) -> bool:
    """Tell whether the block begins a tar archive, whatever else it is: torch tries that first, and extracts it."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
