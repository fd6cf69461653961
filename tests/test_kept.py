"""What is kept of large weights between runs: the same result, nothing decomposed, and no trust in what is on the disk."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.catalog import ListedFile
from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.errors import Interrupted
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.methods import pair_cache
from lorax.options import Options
from lorax.transfer import Context, Moved, plan, run, run_all
from lorax.workflow import Memory, Request, analyse
from tests import builders
from tests.samples import Files, arguments

BIG = 1 << 30


def moved(
    files: Files, folder: Path | None, method: str = "lorax", rank: str = "auto", lora: Path | None = None, limit: int = BIG
) -> Moved:
    bases = open_checkpoint(files.base), open_checkpoint(files.target)
    cache = None if folder is None else Cache(folder, limit, 0)
    return run(plan(open_adapter(lora or files.lora), *bases, Options(method, rank, threshold=0.1)), Context(cache=cache))


def assert_same(found: Moved, expected: Moved) -> None:
    assert found.report == expected.report
    for layer, delta in expected.layers.items():
        assert torch.equal(found.layers[layer].up, delta.up)
        assert torch.equal(found.layers[layer].down, delta.down)


@pytest.mark.parametrize("rank", ["auto", "25%"])
@pytest.mark.parametrize("method", ["lorax", "prolora", "prolora-cross"])
def test_a_second_run_decomposes_nothing_and_gives_the_same(
    files: Files,
    tmp_path: Path,
    large: list[int],
    method: str,
    rank: str,
) -> None:
    expected = moved(files, None, method, rank)
    assert_same(moved(files, tmp_path, method, rank), expected)
    large.clear()
    assert_same(moved(files, tmp_path, method, rank), expected)
    assert large == []


@pytest.mark.parametrize("method", ["lorax", "auto", "copy"])
def test_a_hosts_cache_serves_the_tab_and_the_api(files: Files, tmp_path: Path, large: list[int], method: str) -> None:
    """What is found of bases is on the disk alone: memory is left to the LoRA-X files that were fitted."""
    cache, work = Cache(tmp_path, BIG, BIG), []
    base, target = (ListedFile(path.stem, path) for path in (files.base, files.target))
    for adapter in (files.lora, builders.save_lora(tmp_path / "other.safetensors", builders.deltas(rank=2))):
        memory, asked = Memory(cache), Request(base, target, [ListedFile("lora", adapter)], Options(method))
        large.clear()
        analyse(asked, lambda done, total, text: None, memory)
        work.append(len(large))
    assert work[0] > work[1] == 0
    cache.change(None, 0, BIG)
    assert all(cache.get(path.stem) is None for path in tmp_path.glob("*.lorax-fit"))


def test_what_analysing_keeps_serves_a_transfer_that_projects(files: Files, tmp_path: Path, large: list[int]) -> None:
    """An analysis keeps the similarities, to which the transfer adds the bases."""
    expected, bases = moved(files, None), (open_checkpoint(files.base), open_checkpoint(files.target))
    analysed = plan(open_adapter(files.lora), *bases, Options("copy"))
    run_all([analysed], Context(cache=Cache(tmp_path, BIG, 0)), survey=True)
    assert_same(moved(files, tmp_path), expected)
    large.clear()
    assert_same(moved(files, tmp_path), expected)
    run_all([analysed], Context(cache=Cache(tmp_path, BIG, 0)), survey=True)
    assert large == []


@pytest.mark.parametrize("method", ["lorax", "prolora"])
def test_on_its_own_base_what_is_found_is_kept_once(files: Files, tmp_path: Path, large: list[int], method: str) -> None:
    """Both weights are one there, whose tensors no file takes twice."""
    base = open_checkpoint(files.base)
    found = [
        run(plan(open_adapter(files.lora), base, base, Options(method, threshold=0.1)), Context(cache=cache))
        for cache in (None, Cache(tmp_path, BIG, 0), Cache(tmp_path, BIG, 0))
    ]
    for one in found[1:]:
        assert_same(one, found[0])
    assert list(tmp_path.glob("*.lorax-fit"))


def test_a_cache_without_a_disk_is_not_asked(files: Files, large: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the key takes a hash of all weights."""
    monkeypatch.setattr(pair_cache, "key", lambda bases: pytest.fail("asked"))
    bases = open_checkpoint(files.base), open_checkpoint(files.target)
    run(plan(open_adapter(files.lora), *bases, Options("lorax")), Context(cache=Cache(None, 0, BIG)))


def test_another_adapter_uses_it_too(files: Files, tmp_path: Path, large: list[int]) -> None:
    other = builders.save_lora(tmp_path / "other.safetensors", builders.deltas(rank=2))
    expected = moved(files, None, lora=other)
    moved(files, tmp_path / "cache")
    large.clear()
    assert_same(moved(files, tmp_path / "cache", lora=other), expected)
    assert large == []


def test_another_method_adds_what_it_needs(files: Files, tmp_path: Path, large: list[int]) -> None:
    expected = moved(files, None, "prolora")
    moved(files, tmp_path, "lorax")
    for _ in range(2):
        large.clear()
        assert_same(moved(files, tmp_path, "prolora"), expected)
    assert large == []


def test_another_rank_or_weight_is_another_entry(files: Files, tmp_path: Path, large: list[int]) -> None:
    moved(files, tmp_path / "cache")
    assert_same(moved(files, tmp_path / "cache", rank="50%"), moved(files, None, rank="50%"))
    changed = files.base_state | {key: value * 1.5 for key, value in files.base_state.items() if value.dim() > 1}
    other = builders.save(changed, tmp_path / "changed.safetensors")
    bases = open_checkpoint(other), open_checkpoint(files.target)
    planned = plan(open_adapter(files.lora), *bases, Options("lorax", threshold=0.1))
    assert_same(run(planned, Context(cache=Cache(tmp_path / "cache", BIG, 0))), run(planned))


@pytest.mark.parametrize("how", ["truncated", "garbage", "another shape", "no notes", "wild notes"])
def test_what_is_damaged_is_found_anew(files: Files, tmp_path: Path, large: list[int], how: str) -> None:
    expected = moved(files, None)
    moved(files, tmp_path)
    entries = list(tmp_path.iterdir())
    assert len(entries) == len({delta.layer for delta in files.deltas})
    for entry in entries:
        if how == "truncated":
            entry.write_bytes(entry.read_bytes()[:-100])
        elif how == "garbage":
            entry.write_bytes(b"\x00" * 3000)
        else:
            notes = {"no notes": None, "wild notes": {"known": "[100000, null]"}}.get(how, {"known": "[3, 0.9]"})
            save_file({"target.near": torch.zeros(5, 5), "target.S": torch.ones(5)}, entry, notes)
    assert_same(moved(files, tmp_path), expected)
    large.clear()
    assert_same(moved(files, tmp_path), expected)
    assert large == []


def test_the_limit_holds_and_what_fits_is_of_use(files: Files, tmp_path: Path, large: list[int]) -> None:
    moved(files, tmp_path / "all")
    whole = sum(path.stat().st_size for path in (tmp_path / "all").iterdir())
    limit = whole * 3 // 4
    moved(files, tmp_path / "part", limit=limit)
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "part").iterdir()) <= limit
    large.clear()
    assert_same(moved(files, tmp_path / "part", limit=limit), moved(files, None))
    once = len(large)
    large.clear()
    moved(files, None)
    assert once < 2 * len(large)


def test_a_copy_keeps_nothing(files: Files, tmp_path: Path, large: list[int]) -> None:
    for method in ("copy", "auto"):
        moved(files, tmp_path / "cache", method)
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_run_leaves_whole_entries_only(files: Files, tmp_path: Path, large: list[int]) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("moving layers, 3 of "):
            raise Interrupted

    bases = open_checkpoint(files.base), open_checkpoint(files.target)
    planned = plan(open_adapter(files.lora), *bases, Options("lorax", threshold=0.1))
    with pytest.raises(Interrupted):
        run(planned, Context(stop, Cache(tmp_path, BIG, 0)))
    assert all(path.suffix == ".lorax-fit" for path in tmp_path.iterdir())
    assert_same(moved(files, tmp_path), moved(files, None))


def _in_another_process(base: Path, target: Path, lora: Path, folder: Path) -> int:
    from lorax.subspace import spectral
    from lorax.transfer import by_layer

    by_layer.SMALL = spectral.SMALL = 1
    planned = plan(open_adapter(lora), open_checkpoint(base), open_checkpoint(target), Options("lorax", threshold=0.1))
    return len(run(planned, Context(cache=Cache(folder, BIG, 0))).layers)


def test_two_processes_at_once(files: Files, tmp_path: Path, large: list[int]) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        given = (files.base, files.target, files.lora, tmp_path)
        counts = pool.starmap(_in_another_process, [given, given])
    expected = moved(files, None)
    assert counts == [len(expected.layers)] * 2
    large.clear()
    assert_same(moved(files, tmp_path), expected)
    assert large == []


def test_on_the_command_line(files: Files, tmp_path: Path, out: Path, large: list[int]) -> None:
    command = ["transfer", *arguments(files), "--method", "lorax", "--cache", str(tmp_path / "cache"), "--output"]
    assert main([*command, str(out / "one.safetensors")]) == 0
    assert large
    large.clear()
    assert main([*command, str(out / "two.safetensors")]) == 0
    assert large == []
    one, two = (load_file(out / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
