"""What was measured, written and read back, by one run after another."""

from __future__ import annotations

from pathlib import Path

import torch

from lab.results import ALONE, NATIVE, ORDINARY, Key, Results, pack

MOVED = Key("pruned", "contrast-r4", "copy", "base")
LOSSES = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
THREE_DIGITS = 5.01e-3  # of the relative error, half of the last digit


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    written = Results(tmp_path)
    half = Key("pruned", "contrast-r4", "copy", "base", 0.5)
    for i, key in enumerate((MOVED, half, Key("finetune", "contrast-r4", ALONE, on=ORDINARY))):
        written.add_losses(key, LOSSES + i)
    written.add_report(MOVED, {"coverage": 0.5, "declined": False, "similarity": None})
    written.add_probe(MOVED, {"r2": 0.25})
    written.add_minutes("pruned", 1.5)
    read = Results(tmp_path)
    assert read.losses.keys() == written.losses.keys()
    assert all(torch.equal(read.losses[key], losses) for key, losses in written.losses.items())
    assert torch.allclose(read.losses[MOVED], LOSSES, rtol=THREE_DIGITS)
    assert read.reports == {MOVED: {"coverage": 0.5, "declined": False, "similarity": None}}
    assert read.probes == {MOVED: {"r2": 0.25}}
    assert read.minutes == {"pruned": 1.5}
    assert {path.name for path in tmp_path.iterdir()} == {"pruned.jsonl", "finetune.jsonl"}


def test_a_run_that_goes_on_appends(tmp_path: Path) -> None:
    first = Results(tmp_path)
    first.add_losses(MOVED, LOSSES)
    first.add_minutes("pruned", 1.25)
    before = (tmp_path / "pruned.jsonl").read_text()
    second = Results(tmp_path)
    assert MOVED in second.losses
    second.add_losses(Key("pruned", "contrast-r4", NATIVE), LOSSES)
    second.add_minutes("pruned", 2.0)
    assert (tmp_path / "pruned.jsonl").read_text().startswith(before)
    assert Results(tmp_path).minutes == second.minutes == {"pruned": 3.25}
    assert len(Results(tmp_path).losses) == 2


def test_the_later_of_two_measurements_counts(tmp_path: Path) -> None:
    for add in (0, 1):
        Results(tmp_path).add_losses(MOVED, LOSSES + add)
    assert torch.allclose(Results(tmp_path).losses[MOVED], LOSSES + 1, rtol=THREE_DIGITS)


def test_what_is_packed_is_read_and_added_to(tmp_path: Path) -> None:
    for add in (0, 1):
        results = Results(tmp_path)
        results.add_losses(MOVED, LOSSES + add)
        results.add_minutes("pruned", 1.5)
        pack(tmp_path)
    Results(tmp_path).add_losses(Key("pruned", "contrast-r4", NATIVE), LOSSES)
    assert {path.name for path in tmp_path.iterdir()} == {"pruned.jsonl", "pruned.jsonl.xz"}
    read = Results(tmp_path)
    assert torch.allclose(read.losses[MOVED], LOSSES + 1, rtol=THREE_DIGITS)
    assert len(read.losses) == 2
    assert read.minutes == {"pruned": 3.0}


def test_nothing_is_made_where_nothing_is_stored(tmp_path: Path) -> None:
    assert not Results(tmp_path / "absent").losses
    assert not (tmp_path / "absent").exists()
