"""Several adapters on the command line: one pass, all written or none, a report for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorax import output
from lorax.cli import main
from lorax.workflow import passes
from tests import builders
from tests.samples import Files, arguments


@pytest.fixture
def library(files: Files, tmp_path: Path) -> list[Path]:
    """Two adapters that share some of their layers."""
    one = builders.save_lora(tmp_path / "one.safetensors", builders.deltas(builders.SOME, rank=3))
    two = builders.save_lora(tmp_path / "two.safetensors", builders.deltas(builders.SOME[2:], rank=5))
    return [one, two]


def bases(files: Files) -> list[str]:
    return arguments(files)[1:]


def test_each_is_written_as_it_is_alone(files: Files, library: list[Path], out: Path) -> None:
    assert main(["transfer", *map(str, library), *bases(files), "--output", str(out), "--method", "lorax"]) == 0
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["one-target.safetensors", "two-target.safetensors"]
    for lora in library:
        alone = out / "alone.safetensors"
        assert main(["transfer", str(lora), *bases(files), "--output", str(alone), "--method", "lorax", "--overwrite"]) == 0
        together, expected = load_file(out / f"{lora.stem}-target.safetensors"), load_file(alone)
        assert together.keys() == expected.keys()
        assert all(torch.equal(together[key], expected[key]) for key in expected)


def test_beside_each_without_an_output(files: Files, library: list[Path]) -> None:
    assert main(["transfer", *map(str, library), *bases(files)]) == 0
    assert all(lora.with_name(f"{lora.stem}-target.safetensors").is_file() for lora in library)


def test_one_pass(files: Files, library: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    many = passes.run_all
    monkeypatch.setattr(passes, "run_all", lambda plans, *more, **named: calls.append(len(plans)) or many(plans, *more, **named))
    assert main(["transfer", *map(str, library), *bases(files), "--output", str(out)]) == 0
    assert calls == [2]


def test_reports_are_a_list(files: Files, library: list[Path], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = out / "report.json"
    command = ["transfer", *map(str, library), *bases(files), "--output", str(out), "--json", "--report", str(report)]
    assert main(command) == 0
    printed, stored = json.loads(capsys.readouterr().out), json.loads(report.read_text())
    assert [one["adapter"] for one in printed] == [one["adapter"] for one in stored] == [str(lora) for lora in library]
    assert [one["written"] for one in printed] == [
        [str(out / f"{lora.stem}-target{suffix}") for suffix in (".safetensors", ".json")] for lora in library
    ]


def test_the_texts_say_of_which(files: Files, library: list[Path], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["transfer", "--output", str(out)], ["analyze"]):
        assert main([command[0], *map(str, library), *bases(files), *command[1:]]) == 0
        printed = capsys.readouterr().out
        assert all(f"{lora}: " in printed for lora in library)


def test_declined_for_all(files: Files, library: list[Path], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strangers = arguments(files, target=files.stranger)[1:]
    for command in (["transfer", "--output", str(out)], ["analyze"]):
        assert main([command[0], *map(str, library), *strangers, *command[1:]]) == 3
        said = capsys.readouterr().err
        assert all(f"{lora}: " in said for lora in library)
    assert list(out.iterdir()) == []


def test_one_of_which_nothing_moves_does_not_hold_up_the_others(
    files: Files, library: list[Path], out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = builders.save_lora(tmp_path / "lost.safetensors", builders.deltas(builders.SOME[1:2]))
    command = ["transfer", str(lost), str(library[0]), *arguments(files, target=files.pruned)[1:], "--output", str(out)]
    assert main([*command, "--method", "copy"]) == 2
    captured = capsys.readouterr()
    assert f"error: {lost}: no layer could be moved" in captured.err
    assert f"wrote {out / 'one-pruned.safetensors'}" in captured.out
    assert sorted(path.name for path in out.iterdir()) == ["one-pruned.json", "one-pruned.safetensors"]


def test_an_interrupt_keeps_none(files: Files, library: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, calls = output.stage, []

    def second(*given: object) -> list[Path]:
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        return stage(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(output, "stage", second)
    assert main(["transfer", *map(str, library), *bases(files), "--output", str(out)]) == 130
    assert list(out.iterdir()) == []


def test_what_cannot_be_named_is_refused_before_any_work(
    files: Files, library: list[Path], out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    namesake = builders.save_lora(other / "one.safetensors", builders.deltas(builders.SOME))
    assert main(["transfer", str(library[0]), str(namesake), *bases(files), "--output", str(out)]) == 2
    assert "one-target.safetensors: the name that two of the adapters get" in capsys.readouterr().err
    assert main(["transfer", *map(str, library), *bases(files), "--output", str(out / "file.safetensors")]) == 2
    assert "not a folder, which --output must be for 2 adapters" in capsys.readouterr().err
    assert list(out.iterdir()) == []
