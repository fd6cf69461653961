"""How errors become sentences: what goes wrong while a file is read, memory that runs out, paths and options that are odd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lorax.cli import main
from lorax.devices import pick_device
from lorax.errors import TEXT, Interrupted, LoraxError, NotEnoughMemory, reading
from lorax.formats import open_adapter
from lorax.formats.adapter_file import AdapterFile
from lorax.options import Options, Running
from lorax.transfer.streaming import Stream
from tests import builders
from tests.samples import Files, arguments, transfer

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("x"), "(KeyError: 'x')"),
        (RuntimeError("no\nway"), "(no)"),
        (RecursionError(), "(its values are nested too deep)"),
        (OverflowError("large"), "(large)"),
        (SafetensorError("bad"), "(bad)"),
        (ZeroDivisionError(), "(ZeroDivisionError)"),
        (ValueError("y" * 100_000), "characters ...]"),
        (PermissionError(13, "Permission denied"), "there is no permission to read it"),
        (OSError(36, "File name too long"), "cannot be read (File name too long)"),
        (MemoryError(), "not enough memory to read it as a thing"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "not enough memory to read it as a thing"),
    ],
)
def test_whatever_goes_wrong_names_the_file(error: Exception, words: str) -> None:
    with pytest.raises(LoraxError) as raised, reading("some/file", "a thing"):
        raise error
    assert str(raised.value).startswith("some/file: ")
    assert words in str(raised.value)
    assert len(str(raised.value)) < TEXT + 100
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [Interrupted(), KeyboardInterrupt(), LoraxError("a sentence")])
def test_stops_and_sentences_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, reading("some/file", "a thing"):
        raise error
    assert raised.value is error


def test_other_errors_are_not_hidden(files: Files, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours outside of reading is still seen as one."""

    def mistaken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("lorax.workflow.passes.plan_all", mistaken)
    with pytest.raises(KeyError):
        main(["transfer", *arguments(files), "--output", str(out / "x.safetensors")])


# --- memory ------------------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Make the first layers that are read fail, as the CPU's allocator does."""
    read, left = AdapterFile.read, [times]

    def failing(self: AdapterFile, *given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            with reading(self.path, "an adapter"):
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")
        return read(self, *given)

    monkeypatch.setattr(AdapterFile, "read", failing)


def test_out_of_memory_is_a_sentence_and_nothing_is_written(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 10**9)
    assert "Not enough memory: a layer needs about" in refused()


def test_a_smaller_working_set_is_tried_if_an_adapter_does_not_fit(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_file(transfer(files.lora, files.base, files.target, out, "--method", "copy"))
    short_of_memory(monkeypatch, 1)
    (out / "second").mkdir()
    found = load_file(transfer(files.lora, files.base, files.target, out / "second", "--method", "copy"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_what_does_not_fit_at_all_keeps_its_cause() -> None:
    def load(task: int, device: torch.device) -> int:
        raise MemoryError

    with pytest.raises(NotEnoughMemory) as raised:
        list(Stream(torch.device("cpu"), lambda task: 1 << 60, load, lambda task, loaded: loaded)([1]))
    assert isinstance(raised.value.__cause__, MemoryError)


def test_out_of_memory_elsewhere_is_a_sentence_too(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lorax.workflow.passes.plan_all", full)
    assert "error: not enough memory. Nothing was written." in refused()


# --- files that may not be read ----------------------------------------------------------------------------------------------


def closed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make a file one that there is no permission to read. Who is root may read every real one."""
    opened = Path.open

    def refusing(self: Path, *given: Any, **more: Any) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *given, **more)

    monkeypatch.setattr(Path, "open", refusing)


def test_a_file_without_permission_is_not_called_truncated(
    files: Files, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(monkeypatch, files.lora.name)
    message = refused()
    assert f"{files.lora}: there is no permission to read it" in message
    assert "truncated" not in message


def test_a_preview_that_cannot_be_read_fails_no_transfer(
    files: Files, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lora = builders.save_lora(tmp_path / "style.safetensors", files.deltas)
    for name in ("style.png", "style.preview.png"):
        (tmp_path / name).write_bytes(b"a picture")
    closed(monkeypatch, "style.png")
    assert transfer(lora, files.base, files.target, out, "--method", "copy").is_file()
    assert "style.png: left out, since it cannot be read" in caplog.text
    assert (out / "moved.preview.png").read_bytes() == b"a picture"


# --- options and paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "1e300", "many"])
def test_sizes_of_no_cache(tmp_path: Path, refused: Refused, size: str) -> None:
    assert f"--cache-size {size}: expected a number of gigabytes" in refused(
        None, None, None, "--cache", str(tmp_path), f"--cache-size={size}"
    )


@pytest.mark.parametrize("option", ["--rank", "--max-rank", "--steps", "--lora-rank", "--pictures"])
@pytest.mark.parametrize("number", ["9" * 10_000, "٣"])
def test_numbers_of_many_digits(refused: Refused, option: str, number: str) -> None:
    message = refused(None, None, None, option, number)
    assert len(message) < 1000
    assert "expected a" in message


@pytest.mark.parametrize("name", ["max_rank"])
def test_numbers_that_python_does_not_print(name: str) -> None:
    with pytest.raises(LoraxError, match="of many digits: expected a whole number"):
        Options(**{name: 10**10_000})
    for other in ("steps", "lora_rank", "pictures"):
        with pytest.raises(LoraxError, match="of many digits: expected a whole number"):
            Running(**{other: 10**10_000})
    with pytest.raises(LoraxError, match="expected a number such as 64"):
        Options(rank="9" * 10_000)


@pytest.mark.parametrize("name", ["cpu:", "cpu:0", "cuda:", "cuda:²", "mps:", ":", "cuda:" + "9" * 5000])
def test_devices_that_are_none(refused: Refused, name: str) -> None:
    with pytest.raises(LoraxError, match="not available here"):
        pick_device(name)
    assert "not available here" in refused(None, None, None, "--device", name)


@pytest.mark.parametrize("role", ["lora", "source", "target"])
def test_paths_that_hold_nul_or_lead_to_themselves(tmp_path: Path, refused: Refused, role: str) -> None:
    (tmp_path / "one.safetensors").symlink_to(tmp_path / "two.safetensors")
    (tmp_path / "two.safetensors").symlink_to(tmp_path / "one.safetensors")
    assert "one.safetensors: cannot be read" in refused(**{role: tmp_path / "one.safetensors"})
    assert "a\\x00b: cannot be read as a path" in refused(**{role: Path("a\0b")})
    assert "cannot be read (File name too long)" in refused(**{role: tmp_path / ("x" * 300)})


@pytest.mark.parametrize("option", ["--output", "--report", "--cache"])
def test_outputs_that_hold_nul_or_lead_to_themselves(tmp_path: Path, refused: Refused, option: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in refused(None, None, None, option, str(tmp_path / "loop"))
    assert "a\\x00b" in refused(None, None, None, option, "a\0b")


def test_an_adapter_opened_in_code_by_a_path_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    for path in (tmp_path / "loop.safetensors", Path("a\0b.safetensors"), tmp_path / ("x" * 300)):
        with pytest.raises(LoraxError):
            open_adapter(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' names are text")
def test_names_that_are_not_utf8(files: Files, tmp_path: Path) -> None:
    """In a process of its own, as the terminal's encoding is in question: first as an adapter, then as an output."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9.safetensors"
    Path(os.fsdecode(odd)).write_bytes(files.lora.read_bytes())
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "ascii"}
    code = (
        "import sys\n"
        "from lorax.cli import main\n"
        "move, (odd, lora, output) = ['transfer', *sys.argv[1:5]], sys.argv[5:]\n"
        "print(main([*move, odd]), main([*move, lora, '--method', 'copy', '--output', output]))\n"
    )
    bases = ["--source", str(files.base), "--target", str(files.target)]
    command = [sys.executable, "-c", code, *bases, odd, str(files.lora), os.fsencode(tmp_path) + b"/\xe9.safetensors"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"its name is not valid UTF-8" in done.stderr
    assert b"caf\\udce9.safetensors" in done.stderr
    assert b"wrote " in done.stdout
    assert done.stdout.endswith(b"2 0\n")
    assert Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.safetensors")).is_file()
