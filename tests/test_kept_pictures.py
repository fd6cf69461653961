"""Pictures that a job has left are found by the hashes of its files: verdicts count them. No file has the hash of another one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lorax.catalog import ListedFile, Origins, forget, keep_in, known_sha256, sha256
from lorax.demo.bundle import BASE
from lorax.files import Cache, hashes
from lorax.models import speed
from lorax.options import Options, Running, Saving
from lorax.runner import Runners
from lorax.transfer import Do, Kind
from lorax.workflow import AtPath, Memory, Request, Verdicts, transfer
from lorax.workflow.verdicts import Asked
from tests.lab_models import LORA

ASKED = Running(pictures=16, steps=1)


@pytest.fixture(autouse=True)
def _one_speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Estimates are compared with each other, and the machine may be slower by the time of the second."""
    monkeypatch.setattr(speed, "REMEMBERED", float("inf"))
    monkeypatch.setattr("lorax.models.speed._share", None)
    yield
    keep_in(None)


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """The bases and a LoRA, which a test may change."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in models.iterdir():
        (folder / path.name).symlink_to(path)
    shutil.copy(LORA, folder / "lora.safetensors")
    return folder


def listed(folder: Path, name: str, sha256: str | None = None) -> ListedFile:
    return ListedFile(name, folder / f"{name}.safetensors", sha256)


def refine(folder: Path, cache: Cache, *bases: ListedFile, running: Running = ASKED) -> None:
    """Refine the LoRA from one base to another."""
    source, target = bases
    request = Request(source, target, [listed(folder, "lora")], Options("refine", device="cpu"), running)
    out = folder.parent / f"{target.name}-{running.pictures}.safetensors"
    transfer(request, AtPath(out, Saving()), memory=Memory(cache, Runners(torch.device("cpu"))))


def told(folder: Path, cache: Cache, target: str, running: Running = ASKED) -> float:
    """Seconds that the verdict names for refine."""
    adapter, to, source = (listed(folder, name) for name in ("lora", target, BASE))
    (found,) = Verdicts(cache).of_all([adapter], to, source, running=running)
    return next(action.seconds for action in found.actions if action.do is Do.REFINE)


@pytest.mark.usefixtures("quick_training", "quick_drawing")
def test_a_verdict_counts_the_pictures_that_an_earlier_job_has_left(folder: Path, tmp_path: Path) -> None:
    """Also on another target of the same LoRA, and at the next start; no longer once the cache is cleared or off."""
    cache = Cache(tmp_path / "cache", 1 << 30, 0)
    keep_in(tmp_path / "index")

    def all_told() -> list[float]:
        others = told(folder, cache, "scratch", Running(pictures=32, steps=1))
        return [told(folder, cache, "scratch"), told(folder, cache, "pruned"), others, told(folder, cache, "xl")]

    before = all_told()
    refine(folder, cache, listed(folder, BASE), listed(folder, "scratch"))
    after = all_told()
    assert after[0] < 0.7 * before[0]
    assert before[1] - after[1] == pytest.approx(before[0] - after[0])  # what is saved is the source's work
    assert after[2:] == before[2:]  # those are others, and another family learns the pictures themselves
    keep_in(None)
    assert all_told() == before
    keep_in(tmp_path / "index")  # as the next start does
    assert all_told() == after
    limit, cache.disk_limit = cache.disk_limit, 0
    assert all_told() == before, "a cache that is off hands out nothing"
    cache.disk_limit = limit
    cache.clear()
    forget()  # as the button does
    assert all_told() == before


@pytest.mark.usefixtures("quick_training", "quick_drawing")
def test_a_verdict_reads_no_file_as_a_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes are known by then. A library's overview goes by the headers of its LoRAs alone."""
    cache = Cache(tmp_path / "cache", 1 << 30, 0)
    refine(folder, cache, listed(folder, BASE), listed(folder, "scratch"))

    def read(*paths: Path, **how: object) -> None:
        raise AssertionError(paths)

    monkeypatch.setattr("lorax.formats.adapter_file.hashes", read)
    monkeypatch.setattr("lorax.checkpoint.identity.hashes", read)
    assert told(folder, cache, "scratch") > 0
    monkeypatch.setattr("lorax.workflow.verdicts.plan_all", read)  # once per pair of bases and structure of adapters
    adapters, bases = [listed(folder, "lora")], [listed(folder, name) for name in (BASE, "scratch")]
    verdicts = Verdicts(cache)
    asked = {"target": bases[1], "source": bases[0], "origins": Origins(bases)}
    (found,) = verdicts.each(adapters, Asked(**asked, by_structure=True))
    assert found.kind is Kind.UNRELATED


def test_a_base_that_is_replaced_during_a_job_gets_no_hash_of_the_former_one(folder: Path, tmp_path: Path) -> None:
    target = folder / "finetune.safetensors"
    content = target.read_bytes()
    target.unlink()
    target.write_bytes(content)
    request = Request(listed(folder, BASE), listed(folder, "finetune"), [listed(folder, "lora")], Options("copy", device="cpu"))

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("hashing finetune"):
            other = tmp_path / "other.safetensors"
            shutil.copy(folder / "pruned.safetensors", other)
            other.replace(target)

    forget()
    transfer(request, AtPath(tmp_path / "out.safetensors", Saving()), progress)
    assert known_sha256(listed(folder, BASE)) == hashes(folder / f"{BASE}.safetensors").sha256
    assert known_sha256(listed(folder, "finetune")) is None
    assert sha256(target) == hashes(folder / "pruned.safetensors").sha256


def test_a_hash_that_the_host_told_is_not_taken_for_our_own(folder: Path, tmp_path: Path) -> None:
    """It may be older than the file."""
    forget()
    target = listed(folder, "finetune", "0" * 64)
    request = Request(listed(folder, BASE), target, [listed(folder, "lora")], Options("copy", device="cpu"))
    transfer(request, AtPath(tmp_path / "out.safetensors", Saving()))
    assert known_sha256(listed(folder, "finetune")) is None
