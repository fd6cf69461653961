"""Files that appear together or not at all, whatever happens and whenever."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorax.errors import LoraxError
from lorax.files import Staging, open_tensors


def stage(folder: Path, *names: str, overwrite: bool = True) -> None:
    with Staging() as staging:
        for name in names:
            staging.add(folder / name, overwrite).write_text(f"new {name}")


def fail(folder: Path, error: BaseException) -> None:
    with Staging() as staging:
        staging.add(folder / "a").write_text("half")
        staging.add(folder / "b")  # and nothing written yet
        raise error


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def placing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the n-th link or rename fail, or be interrupted just after it was done. Windows fails again when it is tried again."""

    def fail(number: int, error: BaseException, done: bool = False) -> None:
        calls: list[tuple[object, Path, Path]] = []

        def failing(function: Callable[..., None]) -> Callable[..., None]:
            def call(source: Path, target: Path) -> None:
                if (this := (function, source, target)) not in calls:
                    calls.append(this)
                if len(calls) != number or calls[-1] != this:
                    return function(source, target)
                if done:
                    with suppress(FileExistsError):
                        function(source, target)
                raise error

            return call

        monkeypatch.setattr(Path, "replace", failing(Path.replace))
        monkeypatch.setattr(Path, "hardlink_to", failing(Path.hardlink_to))

    return fail


def test_nothing_appears_before_the_end(out: Path) -> None:
    (out / "b").write_text("old")
    with Staging() as staging:
        for name in "abc":
            staging.add(out / name, overwrite=True).write_text(f"new {name}")
        assert not (out / "a").exists()
        assert (out / "b").read_text() == "old"
    assert content(out) == {name: f"new {name}" for name in "abc"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LoraxError("bad"), KeyboardInterrupt()])
def test_a_failure_in_the_block_leaves_nothing(out: Path, error: BaseException) -> None:
    (out / "b").write_text("old")
    with pytest.raises(type(error)):
        fail(out, error)
    assert content(out) == {"b": "old"}


INTERRUPTIONS = [(PermissionError("in use"), False), (KeyboardInterrupt(), False), (KeyboardInterrupt(), True)]


# Two that exist and one that is new: three calls replace a file, and one places a new one.
@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize(("error", "done"), INTERRUPTIONS)
def test_what_was_replaced_is_put_back(
    out: Path, placing: Callable[..., None], error: BaseException, number: int, done: bool
) -> None:
    """A new report must not stand beside an old adapter, unless the interrupt came when all was in place."""
    before = {"report": "old report", "adapter": "old adapter"}
    for name, text in before.items():
        (out / name).write_text(text)
    placing(number, error, done)
    after = {name: f"new {name}" for name in ("report", "new", "adapter")}
    if isinstance(error, OSError) and number not in (3, 7):  # a link that is refused is one that the file system does not have
        stage(out, "report", "new", "adapter")
        assert content(out) == after
        return
    with pytest.raises(LoraxError if isinstance(error, OSError) else KeyboardInterrupt):
        stage(out, "report", "new", "adapter")
    assert content(out) == (after if number == 7 and done else before)


def test_what_was_replaced_is_put_back_when_a_file_was_never_written(out: Path) -> None:
    (out / "a").write_text("old")
    staging = Staging()
    staging.add(out / "a", overwrite=True).write_text("new")
    staging.add(out / "b")
    with pytest.raises(LoraxError, match="b: cannot be written"), staging:
        pass
    assert content(out) == {"a": "old"}


def test_links_are_replaced_and_put_back(out: Path, placing: Callable[..., None]) -> None:
    """A link's name is written, not what it leads to."""
    (out / "file").write_text("old")
    (out / "link").symlink_to("file")
    (out / "nowhere").symlink_to("gone")
    placing(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        stage(out, "link", "nowhere")
    assert (out / "link").readlink() == Path("file")
    assert (out / "nowhere").readlink() == Path("gone")
    stage(out, "link", "nowhere")
    assert content(out) == {"file": "old", "link": "new link", "nowhere": "new nowhere"}


def test_interrupted_after_the_last_file_all_stay(out: Path, placing: Callable[..., None]) -> None:
    placing(2, KeyboardInterrupt(), True)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        stage(out, "a", "b")
    assert content(out) == {"a": "new a", "b": "new b"}
    assert "nothing" not in str(interrupt.value)


def test_an_interrupt_says_what_is_true(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^nothing was written$"):
        fail(out, KeyboardInterrupt())
    assert content(out) == {}


def test_one_name_for_two_files(out: Path) -> None:
    (out / "sub").mkdir()
    with Staging() as staging:
        assert staging.is_free(out / "a")
        staging.add(out / "a").write_text("one")
        assert not staging.is_free(out / "sub" / ".." / "a")
        with pytest.raises(LoraxError, match="named for two outputs"):
            staging.add(out / "sub" / ".." / "a")
    assert (out / "a").read_text() == "one"


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_appears_in_the_meantime_is_left_alone(
    out: Path, monkeypatch: pytest.MonkeyPatch, kind: str, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", without_links)
    staging = Staging()
    for name in "ab":
        staging.add(out / name).write_text(f"new {name}")
    if kind == "file":
        (out / "b").write_text("theirs")
    elif kind == "folder":
        (out / "b").mkdir()
    else:
        (out / "b").symlink_to("gone")
    with pytest.raises(LoraxError, match="b: appeared while this was made, and is left as it is"), staging:
        pass
    assert [path.name for path in out.iterdir()] == ["b"]
    assert (out / "b").is_symlink() or (out / "b").is_dir() or (out / "b").read_text() == "theirs"


def test_a_folder_that_appears_is_left_alone_even_with_overwrite(out: Path) -> None:
    staging = Staging()
    staging.add(out / "a", overwrite=True).write_text("new")
    (out / "a").mkdir()
    (out / "a" / "theirs").write_text("theirs")
    with pytest.raises(LoraxError, match="a: appeared"), staging:
        pass
    assert content(out / "a") == {"theirs": "theirs"}


def test_the_rollback_removes_nothing_that_it_did_not_make(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the second file is refused, somebody replaces the first."""
    link = Path.hardlink_to

    def busy(self: Path, target: Path) -> None:
        if self.name == "b":
            (out / "theirs").write_text("theirs")
            (out / "theirs").replace(out / "a")
            (out / "b").mkdir()
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", busy)
    with pytest.raises(LoraxError, match="b: appeared"):
        stage(out, "a", "b", overwrite=False)
    assert (out / "a").read_text() == "theirs"


def without_links(self: Path, target: Path) -> None:
    raise PermissionError(1, "Operation not permitted")  # as FAT answers on Linux


def test_without_links_all_is_the_same(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", without_links)
    (out / "b").write_text("old")
    (out / "d").mkdir()
    with pytest.raises(LoraxError, match="d: appeared"):
        stage(out, "a", "b", "d")
    assert (out / "b").read_text() == "old"
    (out / "d").rmdir()
    stage(out, "a", "b")
    assert content(out) == {"a": "new a", "b": "new b"}


def test_a_missing_folder_is_made_and_stays_only_with_a_file(out: Path) -> None:
    staging = Staging()
    staging.add(out / "new" / "folder" / "a").write_text("half")
    with pytest.raises(ValueError, match="bad"), staging:
        raise ValueError("bad")
    assert not list(out.iterdir())
    stage(out, "new/folder/a")
    assert (out / "new" / "folder" / "a").read_text() == "new new/folder/a"


def is_mapped(path: Path) -> bool:
    return f" {path.resolve()}\n" in Path("/proc/self/maps").read_text()


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to replace a file that this process has mapped."""
    replace = Path.replace

    def refusing(self: Path, target: Path) -> None:
        if is_mapped(target):
            raise PermissionError(13, "Access is denied")
        replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells what is mapped")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_what_nobody_reads_any_more_is_let_go_of(out: Path, windows: None, suffix: str) -> None:
    """On Windows a file that is mapped cannot be replaced. What is open in a circle of objects lives until they are collected."""
    path = out / f"a.{suffix}"
    save_file({"a": torch.ones(5000)}, path) if suffix == "safetensors" else torch.save({"a": torch.ones(5000)}, path)
    gc.disable()
    try:
        circle: list[object] = [file := open_tensors(path)]
        circle.extend([circle, file.get("a")])
        assert is_mapped(path)
        with pytest.raises(LoraxError, match=rf"a.{suffix}: cannot be written \(Access is denied\). Nothing was changed."):
            stage(out, "new", path.name)
        assert [name.name for name in out.iterdir()] == [path.name]
        del circle, file
        stage(out, path.name)
    finally:
        gc.enable()
    assert path.read_text() == f"new {path.name}"


def test_what_cannot_be_put_back_is_kept_beside_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows another program may open the new file at once, which then cannot be replaced by the old one."""
    (out / "a").write_text("old")
    replace = Path.replace

    def refusing(self: Path, target: Path) -> None:
        if self.name.endswith("-old.tmp"):
            raise PermissionError(13, "Access is denied")
        replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)
    (out / "b").mkdir()
    with pytest.raises(LoraxError, match=r"b: appeared.* could not be put back: what was .*a is now "):
        stage(out, "a", "b")
    [kept] = [path for path in out.iterdir() if path.name not in "ab"]
    assert kept.read_text() == "old"
    stage(out, "a")
    assert kept.read_text() == "old"
