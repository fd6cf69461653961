"""The cache: bounded in memory and on disk, least recently used out, and safe against damage, crashes and other processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorax.files import Cache, Entry

BIG = 1 << 30


def entry(value: float, size: int = 250) -> Entry:
    return Entry({"a": torch.full((size,), float(value))}, {"message": f"{value:g}"})  # 1000 bytes


def value(found: Entry | None) -> float | None:
    return None if found is None else found.tensors["a"][0].item()


def test_what_is_put_is_found_in_memory_and_by_another_process_on_disk(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder", BIG, BIG)
    cache.put("key", entry(3))
    assert value(cache.get("key")) == 3
    other = Cache(cache.folder, BIG, 0).get("key")
    assert value(other) == 3
    assert other is not None
    assert other.notes == {"message": "3"}
    assert Cache(cache.folder, BIG, BIG).get("another") is None


def test_nothing_but_notes_can_be_kept(tmp_path: Path) -> None:
    Cache(tmp_path, BIG, BIG).put("key", Entry({}, {"message": "why not"}))
    assert Cache(tmp_path, BIG, BIG).get("key") == Entry({}, {"message": "why not"})


def test_memory_forgets_the_least_recently_used() -> None:
    cache = Cache(None, BIG, 2500)
    for key in "ab":
        cache.put(key, entry(1))
    cache.get("a")
    cache.put("c", entry(1))
    assert [key for key in "abc" if cache.get(key)] == ["a", "c"]
    cache.put("large", entry(1, size=1000))
    assert cache.get("large") is None


def test_the_disk_forgets_the_least_recently_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2900, 0)  # a file has a header of some 300 bytes
    for age, key in ((30, "a"), (20, "b")):
        cache.put(key, entry(1))
        os.utime(tmp_path / f"{key}.lorax-fit", (time.time() - age,) * 2)
    cache.get("a")
    cache.put("c", entry(1))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]
    cache.put("large", entry(1, size=1000))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]


def test_what_is_larger_than_the_cache_is_not_kept_and_that_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path, 2600, 0)
    cache.put("small", entry(1))
    assert not caplog.records
    for _ in range(3):
        cache.put("large", entry(1, size=1000))
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"{tmp_path}: an entry of 4e-06 GB is not kept: the cache may hold 2.6e-06 GB.")
    assert [path.stem for path in tmp_path.iterdir()] == ["small"]
    assert not cache.has_room(entry(1, size=1000).tensors.values())
    assert cache.has_room(entry(1).tensors.values())
    Cache(tmp_path, 0, 0).put("large", entry(1))  # off: nothing is expected of it
    assert len(caplog.records) == 1


@pytest.mark.parametrize("damage", [b"", b"\x00" * 2000, b"not safetensors at all"], ids=["empty", "zeros", "garbage"])
def test_a_damaged_entry_is_absent_and_replaced(tmp_path: Path, damage: bytes) -> None:
    Cache(tmp_path, BIG, 0).put("key", entry(1))
    (tmp_path / "key.lorax-fit").write_bytes(damage)
    cache = Cache(tmp_path, BIG, 0)
    assert cache.get("key") is None
    cache.put("key", entry(2))
    assert value(cache.get("key")) == 2


def test_a_truncated_entry_is_absent(tmp_path: Path) -> None:
    Cache(tmp_path, BIG, 0).put("key", entry(1))
    whole = (tmp_path / "key.lorax-fit").read_bytes()
    (tmp_path / "key.lorax-fit").write_bytes(whole[:-10])
    assert Cache(tmp_path, BIG, 0).get("key") is None


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def renamed(path: Path) -> None:
    """Another pair's entry, which is whole in itself."""
    Cache(path.parent, BIG, 0).put("another", entry(5))
    (path.parent / "another.lorax-fit").replace(path)


def foreign(path: Path) -> None:
    """Other tensors under the same header."""
    save_file(entry(5).tensors, path, header_of(path))


def renoted(path: Path) -> None:
    header = header_of(path)
    save_file(load_file(path), path, {name: text.replace('"message": "1"', '"message": "2"') for name, text in header.items()})


def former(path: Path) -> None:
    """The format before there were checksums."""
    save_file(entry(5).tensors, path, entry(5).notes)


def not_finite(path: Path) -> None:
    Cache(path.parent, BIG, 0).put("key", Entry({"a": torch.tensor([1.0, float("nan")])}, {}))


def odd_header(path: Path) -> None:
    save_file(load_file(path), path, {"lorax.entry": "[" * 100_000})


def header_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("damage", [flipped, renamed, foreign, renoted, former, not_finite, odd_header])
def test_what_is_not_what_was_written_is_absent_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    Cache(tmp_path, BIG, 0).put("key", entry(1))
    damage(tmp_path / "key.lorax-fit")
    cache = Cache(tmp_path, BIG, BIG)
    assert cache.get("key") is None
    cache.put("key", entry(2))
    assert value(Cache(tmp_path, BIG, 0).get("key")) == 2
    assert not caplog.records


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_every_kind_of_tensor_is_found_again(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    Cache(tmp_path, BIG, 0).put("key", Entry({"a": torch.ones(shape, dtype=dtype)}, {}))
    found = Cache(tmp_path, BIG, 0).get("key")
    assert found is not None
    assert found.tensors.keys() == {"a"}
    assert found.tensors["a"].dtype is dtype
    assert found.tensors["a"].equal(torch.ones(shape, dtype=dtype))


def test_what_a_crash_left_is_cleared_away_later(tmp_path: Path) -> None:
    for name, age in (("old.lorax-fit.tmp", 7200), ("new.lorax-fit.tmp", 0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    Cache(tmp_path, BIG, BIG).put("key", entry(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "key.lorax-fit",
        "new.lorax-fit.tmp",
    ]  # another process may be writing it


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file", BIG, BIG)
    cache.put("key", entry(1))
    assert value(cache.get("key")) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_entry_that_memory_is_too_short_to_write_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> bytes:
        raise error

    monkeypatch.setattr("lorax.files.cache.save", full)
    cache = Cache(tmp_path, BIG, BIG)
    cache.put("key", entry(1))
    assert value(cache.get("key")) == 1
    assert value(Cache(tmp_path, BIG, BIG).get("key")) is None


def test_what_comes_and_goes_of_one_kind_is_counted(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2900, 0)
    found = [cache.changes("drawn")]
    for what in (
        lambda: cache.put("1-drawn", entry(1)),
        lambda: cache.put("1-drawn", entry(2)),  # in place of the other
        lambda: cache.put("1", entry(1)),
        lambda: cache.put("2", entry(1)),  # the oldest goes
        lambda: cache.put("3-drawn", entry(1)),
        cache.clear,
        lambda: cache.change(tmp_path / "other", BIG, 0),
    ):
        what()
        found.append(cache.changes("drawn"))
        time.sleep(0.02)  # entries go by their age
    changed = [after != before for before, after in itertools.pairwise(found)]
    assert changed == [True, False, False, True, True, True, True]


def test_clear(tmp_path: Path) -> None:
    cache = Cache(tmp_path, BIG, BIG)
    cache.put("key", entry(1))
    cache.clear()
    assert cache.get("key") is None
    assert not list(tmp_path.iterdir())
    Cache(tmp_path / "missing", BIG, BIG).clear()


def test_other_limits_hold_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "old", BIG, BIG)
    for age, key in ((30, "a"), (20, "b")):
        cache.put(key, entry(1))
        os.utime(tmp_path / "old" / f"{key}.lorax-fit", (time.time() - age,) * 2)
    cache.change(tmp_path / "old", 1500, 1500)
    assert [key for key in "ab" if cache.get(key)] == ["b"]
    cache.change(tmp_path / "new", BIG, 0)
    assert cache.get("b") is None
    cache.put("c", entry(1))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.lorax-fit"]


def test_no_file_of_another_kind_is_removed(tmp_path: Path) -> None:
    """A user may choose the folder of their LoRAs."""
    names = ["download.tmp", "style.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
        os.utime(tmp_path / name, (0, 0))
    cache = Cache(tmp_path, 10, 0)
    cache.put("key", entry(1))
    cache.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_two_processes_write_and_read_at_once(tmp_path: Path) -> None:
    """Limits so small that each takes the other's entries away all the time."""
    code = (
        "import sys, torch; from pathlib import Path; from lorax.files.cache import Cache, Entry\n"
        "cache = Cache(Path(sys.argv[1]), 5000, 0)\n"
        "for i in range(150):\n"
        "    cache.put(f'k{i % 7}', Entry({'a': torch.full((250,), float(i % 7))}, {}))\n"
        "    found = cache.get(f'k{(i + 3) % 7}')\n"
        "    assert found is None or (found.tensors['a'] == (i + 3) % 7).all()\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert all(path.suffix == ".lorax-fit" for path in tmp_path.iterdir())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 8000
