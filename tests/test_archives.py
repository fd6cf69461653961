"""Files that Python and torch read differently: what was checked must be what torch loads."""

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax.errors import LoraxError
from lorax.files import open_tensors

PLAIN = {"x.lora_up.weight": torch.ones(4, 2)}
END = b"PK\5\6"


def saved(state: dict[str, torch.Tensor]) -> list[tuple[str, bytes]]:
    """Return the records that torch writes."""
    stream = io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(stream) as archive:
        return [(one.filename, archive.read(one)) for one in archive.infolist()]


def zipped(records: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records:
            archive.writestr(name, content)
    return stream.getvalue()


def end_of(archive: bytes) -> tuple[int, int, int, int]:
    """Return where the end record is, and of the directory the number of records, the length and the start."""
    at = archive.rfind(END)
    count, length, start = struct.unpack("<HII", archive[at + 10 : at + 20])
    return at, count, length, start


def with_two_directories(hidden: bytes) -> bytes:
    """Return a file whose end names the directory of ``hidden``, behind which stands another one of equal length and place."""
    at, count, length, start = end_of(hidden)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        infos = [zipfile.ZipInfo(str(number)) for number in range(count)]
        for info in infos[:-1]:
            archive.writestr(info, b"")
        infos[-1].comment = bytes(length - sum(46 + len(info.filename) for info in infos))
        archive.writestr(infos[-1], bytes(start - stream.tell() - 30 - len(infos[-1].filename)))
    shown = stream.getvalue()
    assert end_of(shown)[1:] == (count, length, start)
    last = END + struct.pack("<HHHHIIH", 0, 0, count, count, length, start, 0)
    return hidden[:at] + shown[: end_of(shown)[0]] + last


def torch_reads(path: Path) -> bytes:
    return bytes(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))


def refusal_of(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(LoraxError) as caught:
        open_tensors(path)
    return str(caught.value)


def test_an_archive_with_a_second_directory_is_refused(tmp_path: Path) -> None:
    records = saved(PLAIN)
    file = tmp_path / "two.pt"
    assert "two.pt: refused" in (said := refusal_of(file, with_two_directories(zipped(records))))
    assert "(two directories of the archive)" in said
    assert torch_reads(file) == dict(records)["archive/data.pkl"], "which Python does not see"
    assert "0" in zipfile.ZipFile(file).namelist()


def test_an_archive_with_a_second_end_is_refused(tmp_path: Path) -> None:
    """A locator, as large archives have it, names an end elsewhere than directly before it."""
    stream = io.BytesIO()
    torch.save(PLAIN, stream)
    whole = stream.getvalue()
    at = end_of(whole)[0]
    assert whole[at - 20 : at - 16] == b"PK\6\7", "torch writes one"
    (named,) = struct.unpack("<Q", whole[at - 12 : at - 4])
    moved = whole[: at - 12] + struct.pack("<Q", named - 1) + whole[at - 4 :]
    assert "(two ends of the archive)" in refusal_of(tmp_path / "ends.pt", moved)


def test_an_archive_with_a_comment_is_refused(tmp_path: Path) -> None:
    at = end_of(archive := zipped(saved(PLAIN)))[0]
    assert "a comment at its end" in refusal_of(tmp_path / "comment.pt", archive[: at + 20] + b"\1\0x")


def test_archives_that_torch_and_python_write_are_read(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "torch.pt")
    (tmp_path / "python.pt").write_bytes(zipped(saved(PLAIN)))
    for name in ("torch.pt", "python.pt"):
        assert torch.equal(open_tensors(tmp_path / name).get("x.lora_up.weight"), torch.ones(4, 2))


@pytest.mark.parametrize("folder", ["archive", "a" * 497])
def test_a_torchscript_program_is_refused(tmp_path: Path, folder: str) -> None:
    """Before 2.6, torch runs it, although only weights are asked for. It cuts names after 511 bytes."""
    records = [(folder + name.removeprefix("archive"), content) for name, content in saved(PLAIN)]
    name = f"{folder}/constants.pkl" + "of another name" * (len(folder) == 497)
    file = tmp_path / "script.pt"
    assert "(a TorchScript program)" in refusal_of(file, zipped([*records, (name, b"\x80\x02).")]))
    assert torch.serialization._is_torchscript_zip(torch._C.PyTorchFileReader(str(file))), "for torch"


def test_the_pickle_that_torch_reads_is_checked(tmp_path: Path) -> None:
    """Of two records that differ by case alone, torch reads one."""
    harmless, harmful = pickle.dumps({}, 2), b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    for order in ((harmless, harmful), (harmful, harmless)):
        file = tmp_path / "case.pt"
        file.write_bytes(zipped([("archive/version", b"3"), *zip(("archive/data.pkl", "archive/DATA.pkl"), order, strict=True)]))
        if torch_reads(file) == harmful:
            assert "a call of builtins bytearray" in refusal_of(file, file.read_bytes())
        else:
            assert "holds no tensors" in refusal_of(file, file.read_bytes())


def test_a_record_with_two_places_is_refused(tmp_path: Path) -> None:
    """Python follows the last of them, and torch the first."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("archive/data.pkl")
        archive.writestr(info, pickle.dumps({}, 2))
        info.extra = struct.pack("<HHQ", 1, 8, 0) * 2
    assert "has two sizes or places" in refusal_of(tmp_path / "places.pt", stream.getvalue())


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    """Torch can be told to write none, and then asks for none."""
    whole = zipped(saved(PLAIN))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for record in archive.infolist():
            whole = whole.replace(
                struct.pack("<III", record.CRC, *[record.file_size] * 2), struct.pack("<III", 0, *[record.file_size] * 2)
            )
    (tmp_path / "plain.pt").write_bytes(whole)
    assert torch.equal(open_tensors(tmp_path / "plain.pt").get("x.lora_up.weight"), torch.ones(4, 2))


def pickles_and_tar(members: list[tuple[str, bytes, dict[str, Any]]]) -> bytes:
    """Return a file that begins with the five pickles of torch's old format, within the name of a tar's first member."""
    first = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."
    first += b"\x80\x02X" + struct.pack("<I", tarfile.BLOCKSIZE - len(first) - 7)  # a text, which ends with the block
    body = b"." + b"\x80\x02N." * 2
    info = tarfile.TarInfo("x" * 99)
    info.size = len(body)
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    head[: len(first)], head[148:156] = first, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, more in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o777
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info)
    return bytes(head) + body.ljust(tarfile.BLOCKSIZE, b"\0") + stream.getvalue()


def test_a_file_that_is_pickles_and_a_tar_is_refused(tmp_path: Path) -> None:
    """Of a link, torch before 2.6 changes the mode of what it names, on extracting; of a pipe, it waits for ever."""
    mine = tmp_path / "mine.txt"
    mine.write_text("x")
    mine.chmod(0o600)
    before = mine.stat()
    said = refusal_of(tmp_path / "tar.ckpt", pickles_and_tar([("storages", tarfile.LNKTYPE, {"linkname": str(mine)})]))
    assert "(a tar archive)" in said
    assert (mine.stat().st_mode, mine.stat().st_mtime) == (before.st_mode, before.st_mtime)
    with tarfile.open(tmp_path / "tar.ckpt", "r:") as archive:
        assert "storages" in archive.getnames(), "for torch"
