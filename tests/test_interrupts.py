"""Interrupted, or out of disk space, at any moment: what remains, the exit code and the words."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorax import cli
from lorax.catalog import forget
from lorax.checkpoint import Checkpoint
from lorax.cli import main
from lorax.files import TensorWriter
from lorax.progress import Progress
from lorax.transfer import Report, wording
from tests.samples import Files, arguments

FAILURES = [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)]


def test_interrupted_while_working(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user presses Ctrl-C while the third weight is read."""
    reads, stored = itertools.count(1), Checkpoint.stored

    def interrupt(self: Checkpoint, layer: str) -> torch.Tensor:
        if next(reads) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return stored(self, layer)

    monkeypatch.setattr(Checkpoint, "stored", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist has another
    try:
        code = main(["transfer", *arguments(files), "--output", str(out), "--report", str(out / "report.json")])
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("step", ["put_all", "finish"])
@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_interrupted_while_writing(
    files: Files, styled: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, code: int
) -> None:
    """After the third layer, or after the header."""
    calls, function = [0], getattr(TensorWriter, step)

    def half(self: TensorWriter, *given: Any) -> None:
        calls[0] += 1
        function(self, *given)
        if calls[0] == 3 or step == "finish":
            raise error

    monkeypatch.setattr(TensorWriter, step, half)
    assert main(["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]) == code
    assert calls == [3 if step == "put_all" else 1]
    assert list(out.iterdir()) == []


# A link that is refused is one that the file system does not have.
STEPS = [*((*failure, os, "fsync") for failure in FAILURES), (KeyboardInterrupt(), 130, Path, "hardlink_to")]


@pytest.mark.parametrize("step", STEPS, ids=["fsync interrupted", "fsync failing", "link interrupted"])
@pytest.mark.parametrize("when", range(1, 6))
def test_interrupted_among_the_files(
    files: Files, styled: Path, out: Path, monkeypatch: pytest.MonkeyPatch, when: int, step: tuple[BaseException, int, Any, str]
) -> None:
    """Two pictures, the card, the report and the adapter take their places: all, or none."""
    error, code, owner, name = step
    function, calls = getattr(owner, name), [0]

    def failing(*given: Any) -> None:
        calls[0] += 1
        if calls[0] == when:
            raise error
        function(*given)

    monkeypatch.setattr(owner, name, failing)
    command = ["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]
    assert main([*command, "--report", str(out / "report.json")]) == code
    assert calls == [when]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_interrupted_while_copying_the_preview(
    files: Files, styled: Path, out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(data[:3])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    assert main(["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]) == code
    assert list(out.iterdir()) == []


def test_interrupted_when_all_is_written(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(report: Report) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(wording, "summary", interrupt)
    assert main(["transfer", *arguments(files), "--output", str(out), "--method", "copy"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert load_file(out / "style-target.safetensors")


def test_an_interrupted_demo_does_not_claim_that_nothing_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(output: Path) -> None:
        raise KeyboardInterrupt("nothing was written")

    monkeypatch.setattr("lorax.demo.run", interrupt)
    assert main(["demo", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err == f"interrupted; see {tmp_path} for what was made so far\n"


def test_interrupted_while_the_arguments_are_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_hashing_has_progress_and_is_interrupted(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line, too: a checkpoint of gigabytes takes a minute."""
    forget()  # a hash that another test has found
    texts: list[str] = []

    @contextmanager
    def bar() -> Iterator[Progress]:
        def progress(done: int, total: int, text: str) -> None:
            texts.append(text)
            if text.startswith("hashing target"):
                raise KeyboardInterrupt

        yield progress

    monkeypatch.setattr(cli, "progress_bar", bar)
    assert main(["transfer", *arguments(files), "--output", str(out), "--method", "copy"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert next(text for text in texts if text.startswith("hashing")).startswith("hashing base, 0 of ")
    assert list(out.iterdir()) == []


def test_an_option_without_effect_is_told_of(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--threshold", "0.5", "--steps", "3", "--max-rank", "2"]
    assert main(["transfer", *arguments(files), "--output", str(out), "--method", "copy", *more]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [f"note: {flag} has no effect with --method copy" for flag in ("--threshold", "--steps")]
