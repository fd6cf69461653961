"""Any number of LoRAs in one pass: memory does not grow with them, files are as ever, and nothing is left of what was spooled."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import full_size
from lorax.catalog import ListedFile
from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.errors import Interrupted
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.methods import WeightPair, weight_method
from lorax.options import Options
from lorax.subspace import Decomposition
from lorax.transfer import Context, Layers, Moved, plan, run, spool
from lorax.workflow import InFolder, Memory, Request
from lorax.workflow import transfer as transfer_all
from tests import builders, xl
from tests.samples import Files, arguments, transfer
from tests.test_kills import forked

PROC = Path("/proc/self/fd")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the spools, if no adapter is small enough to stay in memory."""
    monkeypatch.setattr(spool, "SMALL", 1)
    folder = tmp_path / "spools"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(spool.tempfile, "tempdir", None)
    return folder


def moved(files: Files, target: Path, progress: object = None, method: str = "auto") -> Moved:
    planned = plan(open_adapter(files.lora), open_checkpoint(files.base), open_checkpoint(target), Options(method))
    return run(planned, Context(progress) if progress else None)


def spools(folder: Path) -> int:
    """How many this process has open. They have no names."""
    gc.collect()
    assert list(folder.iterdir()) == []
    return sum(str(one.readlink()).startswith(str(folder)) for one in PROC.iterdir() if one.is_symlink())


@pytest.mark.skipif(not PROC.exists(), reason="tells how much memory a process has")
def test_memory_does_not_grow_with_the_number(tmp_path: Path) -> None:
    """Ten more LoRAs have 125 MB in half precision, and took 170 MB more when all were held until they were written."""
    full_size.write(tmp_path / "a.safetensors", full_size.checkpoint(xl.XL))
    full_size.write(tmp_path / "b.safetensors", full_size.checkpoint(xl.SSD), prefix="noise.")
    loras = [tmp_path / f"lora-{number}.safetensors" for number in range(12)]
    for path in loras:
        full_size.write(path, list(full_size.lora(xl.XL, 64)), own=path.stem)
    peaks = []
    for count in (2, 12):
        command = [sys.executable, "-m", "lorax", "transfer", *map(str, loras[:count]), "--output", str(tmp_path), "--overwrite"]
        bases = ["--source", str(tmp_path / "a.safetensors"), "--target", str(tmp_path / "b.safetensors")]
        peaks.append(full_size.measure([*command, *bases, "--device", "cpu"]).peak or 0)
    assert len(list(tmp_path.glob("lora-*-b.safetensors"))) == 12
    assert sum(path.stat().st_size for path in loras[2:]) > 120e6
    assert peaks[1] - peaks[0] < 50e6, peaks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["copy", "lorax"])
def test_files_are_what_a_direct_computation_gives(files: Files, large: Path, out: Path, method: str, dtype: str) -> None:
    """To the last bit: the same factors, in a file that is laid out as safetensors itself writes it, and hashed as kohya does."""
    more = ("--rank", "50%", "--threshold", "0", "--dtype", dtype)
    written = transfer(files.lora, files.base, files.target, out, "--method", method, *more)
    adapter, base, target = open_adapter(files.lora), open_checkpoint(files.base), open_checkpoint(files.target)
    found, rule = load_file(written), Options(method, "50%").rule
    for name, layer in adapter.layers_of(base).items():
        pair = WeightPair(Decomposition(base.weight(layer)), Decomposition(target.weight(layer)), rule)
        delta, _ = weight_method(method).move(adapter.delta(name, base), pair)
        kohya, balanced = target.names.kohya(layer), delta.balanced()
        for part, values in (("up", balanced.up), ("down", balanced.down)):
            tensor = found.pop(f"{kohya}.lora_{part}.weight")
            assert torch.equal(tensor, values.to(DTYPES[dtype]).view(tensor.shape))
        assert found.pop(f"{kohya}.alpha") == torch.tensor(balanced.scale * balanced.rank)
    assert not found
    assert_laid_out_and_hashed(written, out / "again.safetensors")


def test_a_large_file_has_the_right_hashes(large: Path, out: Path, tmp_path: Path) -> None:
    """The legacy one is of the second mebibyte, and depends on where the header ends."""
    source, target = (xl.save(xl.base(0, size), tmp_path / f"{size.middle}.safetensors") for size in (xl.XL, xl.SSD))
    full_size.write(tmp_path / "lora.safetensors", list(full_size.lora(xl.XL, 32)))
    written = transfer(tmp_path / "lora.safetensors", source, target, out, "--method", "copy")
    assert written.stat().st_size > 2 << 20
    assert_laid_out_and_hashed(written, out / "again.safetensors")


def assert_laid_out_and_hashed(written: Path, again: Path) -> None:
    header, tensors = builders.header(written), load_file(written)
    save_file(tensors, again, {key: value for key, value in header.items() if key.startswith("ss_")})
    entries, begins = zip(*(layout(path) for path in (written, again)), strict=True)
    assert entries[0] == entries[1]
    assert begins[0] % 8 == 0
    assert written.read_bytes()[begins[0] :] == again.read_bytes()[begins[1] :]
    content = again.read_bytes()
    assert header["sshs_model_hash"] == hashlib.sha256(content[begins[1] :]).hexdigest()
    assert header["sshs_legacy_hash"] == hashlib.sha256(content[1 << 20 :][: 1 << 16]).hexdigest()[:8]


def layout(path: Path) -> tuple[list[tuple[str, object]], int]:
    """The tensors in the order of the header, and where they begin."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return [item for item in json.loads(content[8 : 8 + size]).items() if item[0] != "__metadata__"], 8 + size


@pytest.mark.skipif(not PROC.exists(), reason="tells which files a process has open")
def test_what_was_spooled_goes_with_the_result(files: Files, large: Path) -> None:
    """A decline, a stop and an error leave nothing, and neither does a result that nobody refers to any more."""

    def stop(done: int, total: int, text: str) -> None:
        if done > 0:
            assert spools(large) == 1
            raise Interrupted

    found = moved(files, files.target)
    assert spools(large) == 1
    assert len(found.layers) == len(files.deltas)
    del found
    assert spools(large) == 0
    declined = moved(files, files.stranger)
    assert declined.report.declined
    assert spools(large) == 0
    with pytest.raises(Interrupted):
        moved(files, files.target, stop)
    assert spools(large) == 0


@pytest.mark.skipif(not PROC.exists(), reason="tells which files a process has open")
def test_each_adapter_goes_by_itself_with_few_files_open(
    files: Files, large: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is needed no more, so the disk does not hold it twice. Neighbours share a file if there are many."""
    loras = [shutil.copy(files.lora, out / f"{number}.safetensors") for number in range(5)]
    monkeypatch.setattr(spool, "FILES", 3)
    monkeypatch.setattr(Memory, "LIMIT", 0)
    opened: dict[str, int] = {}

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("writing"):
            opened.setdefault(text.split(",")[0], spools(large))

    base, target = (ListedFile(path.stem, path) for path in (files.base, files.target))
    asked = Request(base, target, [ListedFile(Path(path).stem, Path(path)) for path in loras], Options("copy"))
    transfer_all(asked, InFolder(out), progress)
    assert list(opened.values()) == [3, 3, 2, 2, 1]
    assert spools(large) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for the kill")
def test_a_kill_leaves_nothing_of_a_spool(files: Files, large: Path) -> None:
    def die(done: int, total: int, text: str) -> None:
        if done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(lambda: moved(files, files.target, die) is None) == -signal.SIGKILL
    assert list(large.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for the limit")
def test_a_full_disk_is_a_sentence(files: Files, large: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A limit to the size of files is met as the end of the disk is."""

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return main(["transfer", *arguments(files), "--output", str(out)])

    assert forked(limited) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {large}: cannot hold what is moved until it is written (File too large). Nothing was")
    assert "TMPDIR" in said
    assert said.count("\n") == 1
    assert not [*out.iterdir(), *large.iterdir()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_read_is_what_was_kept(large: Path, dtype: torch.dtype) -> None:
    """Half precision, which takes half the space, is for values that it holds, to the last one."""
    up, down = torch.randn(7, 3).to(dtype).float(), torch.randn(3, 5).to(dtype).float()
    up[:1] = 1.0
    for values in (up, down.mT.contiguous().mT, torch.zeros(3, 0)):
        layers = Layers.of([("a", LowRank(up, values, 0.3))])
        assert torch.equal(layers["a"].up, up)
        assert torch.equal(layers["a"].down, values)
        assert (layers["a"].scale, layers.outlines["a"].shape) == (0.3, (7, values.shape[1]))
        assert layers.size == torch.finfo(dtype).bits // 8 * (up.numel() + values.numel())
