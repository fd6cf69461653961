"""Killed at every event of a save, or in a race with another run: every name holds an old or a new file, whole."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.cli import main
from lorax.errors import LoraxError
from lorax.files import Staging, TensorWriter
from lorax.files.temporary import TemporaryFolder
from tests.samples import Files, arguments

if not hasattr(os, "fork"):
    pytest.skip("a process is forked for each kill", allow_module_level=True)


def forked(work: Callable[[], object]) -> int:
    """Do the work in another process; return its exit code, negative if it was killed."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(60)  # instead of waiting for ever
    torch.set_num_threads(1)  # the threads of the parent are not there to share a product of matrices
    try:
        os._exit(int(work() or 0))
    finally:
        os._exit(99)


def killed(work: Callable[[], object], folder: Path, number: int) -> int:
    """Kill the process before its n-th event that concerns ``folder``, as Python's audit hooks tell of them."""

    def die() -> object:
        events = [0]

        def count(event: str, given: tuple[Any, ...]) -> None:
            if any(isinstance(one, str | Path) and str(one).startswith(str(folder)) for one in given) or event == "fcntl.flock":
                events[0] += 1
                if events[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        return work()

    return forked(die)


def visible(folder: Path) -> dict[str, str]:
    """What a user sees in the folder, with what is in it."""
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".lorax-")}


def stage(folder: Path, overwrite: bool, *names: str) -> None:
    with Staging() as staging:
        for name in names:
            staging.add(folder / name, overwrite).write_text(f"new {name}")


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_killed_at_every_event(out: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, has_links: bool) -> None:
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", without_links)
    names = ["a", "b", "c"] if overwrite else ["a", "c"]
    for number in range(1, 200):
        (out / "b").write_text("old b")
        for name in "ac":
            (out / name).unlink(missing_ok=True)
        code = killed(lambda: stage(out, overwrite, *names), out, number)
        for name, text in visible(out).items():
            expected = {f"new {name}"} if name != "b" else {"old b", "new b"} if overwrite else {"old b"}
            assert text in expected
        assert (out / "b").exists()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert number > 15
    assert visible(out) == {"b": "old b"} | {name: f"new {name}" for name in names}
    assert not list(out.glob(".*"))  # the last run removed what the others left


def without_links(self: Path, target: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_transfer_killed_at_every_event(files: Files, styled: Path, out: Path, overwrite: bool) -> None:
    """The adapter is a whole file of safetensors, and so are its pictures and its card."""
    path = out / "moved.safetensors"
    command = ["transfer", *arguments(files, styled), "--output", str(path), "--method", "copy"]
    assert main(command) == 0
    whole, old = {one.name: one.read_bytes() for one in out.iterdir()}, {"a": torch.ones(3)}
    new = load_file(path)
    for number in range(1, 400):
        for one in out.iterdir():
            if one.is_file():
                one.unlink()
        if overwrite:
            save_file(old, path)
        code = killed(lambda: main([*command, *["--overwrite"] * overwrite]), out, number)
        for one in out.iterdir():
            if one != path and one.is_file():
                assert one.read_bytes() == whole[one.name]
        assert path.exists() or not overwrite
        if path.exists():
            assert load_file(path).keys() in ((old.keys(), new.keys()) if overwrite else (new.keys(),))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert number > 30
    assert {one.name for one in out.iterdir()} == whole.keys()


def test_temporaries_of_a_live_run_stay(out: Path) -> None:
    with Staging() as first:
        first.add(out / "a").write_text("new a")
        assert forked(lambda: stage(out, False, "b")) == 0
        stage(out, False, "c")
    assert visible(out) == {name: f"new {name}" for name in "abc"}
    assert len(list(out.iterdir())) == 3


def test_what_looks_like_a_temporary_is_left_alone(out: Path, tmp_path: Path) -> None:
    """An older version's file, and a link that leads out of the folder."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("theirs")
    (out / ".lorax-link.tmp").symlink_to(theirs)
    (out / ".lorax-0123456789abcdef.tmp").write_text("half")
    stage(out, False, "a")
    assert (theirs / "file").read_text() == "theirs"
    assert len(list(out.iterdir())) == 3


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_runs_at_once_one_is_told(out: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    """Neither result is lost: what is there is the first's, whole, and the second says that it wrote nothing.

    A third run begins again and again meanwhile, and removes what runs that died have left.
    """
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", without_links)

    def run(start: int, name: str) -> int:
        os.read(start, 1)
        try:
            with Staging() as staging:
                for number in range(3):
                    staging.add(out / f"{number}").write_text(name)
        except LoraxError as error:
            return 2 if "appeared while this was made" in str(error) else 98
        return 0

    if not (third := os.fork()):
        signal.alarm(60)
        while True:
            TemporaryFolder(out).close()
    try:
        rounds(out, run)
    finally:
        os.kill(third, signal.SIGKILL)
        os.waitpid(third, 0)


def rounds(out: Path, run: Callable[[int, str], int]) -> None:
    for _ in range(30):
        start, go = os.pipe()
        pids = []
        for name in ("one", "two"):
            if not (pid := os.fork()):
                os._exit(run(start, name))
            pids.append(pid)
        os.write(go, b"..")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        os.close(start)
        os.close(go)
        assert sorted(codes) == [0, 2]
        assert visible(out) == dict.fromkeys("012", "one" if codes[0] == 0 else "two")
        for name in "012":
            (out / name).unlink()


def test_a_transfer_does_not_replace_what_appeared_meanwhile(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish = TensorWriter.finish

    def busy(self: TensorWriter, metadata: dict[str, str]) -> None:
        finish(self, metadata)
        (out / "moved.safetensors").write_text("theirs")

    monkeypatch.setattr(TensorWriter, "finish", busy)
    command = ["transfer", *arguments(files), "--output", str(out / "moved.safetensors"), "--report", str(out / "report.json")]
    assert main(command) == 2
    assert "moved.safetensors: appeared while this was made" in capsys.readouterr().err
    assert visible(out) == {"moved.safetensors": "theirs"}
    assert main([*command, "--overwrite"]) == 0


def test_a_limit_to_the_size_of_files_is_a_sentence(files: Files, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real limit, which safetensors' own code meets, as it meets a full disk."""

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return main(["transfer", *arguments(files), "--output", str(out / "moved.safetensors"), "--method", "copy"])

    assert forked(limited) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {out / 'moved.safetensors'}: cannot be written (")
    assert "Nothing was changed." in said
    assert not list(out.iterdir())


def test_a_folder_without_permission_is_a_sentence(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The administrator may write everywhere, so what the system would answer is put in its place."""

    def refusing(path: Path, *given: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refusing)
    for where in (out / "moved.safetensors", out):
        assert main(["transfer", *arguments(files), "--output", str(where), "--method", "copy"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {out}/")
        assert ".safetensors: cannot be written (Permission denied). Nothing was changed." in said
    assert not list(out.iterdir())
