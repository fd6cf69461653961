"""Files that appear together or not at all, whatever happens and whenever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorax.errors import LoraxError
from lorax.files import Staging


def stage(folder: Path, *names: str) -> None:
    with Staging() as staging:
        for name in names:
            staging.add(folder / name).write_text(f"new {name}")


def fail(folder: Path, error: BaseException) -> None:
    with Staging() as staging:
        staging.add(folder / "a").write_text("half")
        staging.add(folder / "b")  # and nothing written yet
        raise error


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def renaming(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException, bool], None]:
    """Make the n-th rename fail, or be interrupted just after it was done."""

    def fail(number: int, error: BaseException, done: bool = False) -> None:
        replace, calls = Path.replace, [0]

        def failing(self: Path, target: Path) -> Path:
            calls[0] += 1
            if calls[0] != number:
                return replace(self, target)
            if done:
                replace(self, target)
            raise error

        monkeypatch.setattr(Path, "replace", failing)

    return fail


def test_nothing_appears_before_the_end(out: Path) -> None:
    (out / "b").write_text("old")
    with Staging() as staging:
        for name in "abc":
            staging.add(out / name).write_text(f"new {name}")
        assert not (out / "a").exists()
        assert (out / "b").read_text() == "old"
    assert content(out) == {name: f"new {name}" for name in "abc"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LoraxError("bad"), KeyboardInterrupt()])
def test_a_failure_in_the_block_leaves_nothing(out: Path, error: BaseException) -> None:
    (out / "b").write_text("old")
    with pytest.raises(type(error)):
        fail(out, error)
    assert content(out) == {"b": "old"}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [PermissionError("in use"), KeyboardInterrupt()])
def test_a_failure_among_the_renames_leaves_nothing(
    out: Path, renaming: Callable[..., None], error: BaseException, number: int, done: bool
) -> None:
    (out / "c").write_text("old")
    renaming(number, error, done)
    with pytest.raises(type(error)):
        stage(out, "a", "b", "c")
    assert content(out) == {"c": "old"}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("error", [PermissionError("in use"), KeyboardInterrupt()])
def test_what_was_replaced_is_put_back(
    out: Path, renaming: Callable[..., None], error: BaseException, number: int, done: bool
) -> None:
    """Two that exist and one that is new take five renames: a new report must not stand beside an old adapter."""
    before = {"report": "old report", "adapter": "old adapter"}
    for name, text in before.items():
        (out / name).write_text(text)
    renaming(number, error, done)
    with pytest.raises(type(error)):
        stage(out, "report", "new", "adapter")
    after = {name: f"new {name}" for name in ("report", "new", "adapter")}
    assert content(out) == (after if (number, done) == (5, True) else before)


def test_what_was_replaced_is_put_back_when_a_file_was_never_written(out: Path) -> None:
    (out / "a").write_text("old")
    with pytest.raises(FileNotFoundError), Staging() as staging:
        staging.add(out / "a")
    assert content(out) == {"a": "old"}


def test_links_are_replaced_and_put_back(out: Path, renaming: Callable[..., None]) -> None:
    """A link's name is written, not what it leads to."""
    (out / "file").write_text("old")
    (out / "link").symlink_to("file")
    (out / "nowhere").symlink_to("gone")
    renaming(4, PermissionError("in use"), False)
    with pytest.raises(PermissionError):
        stage(out, "link", "nowhere")
    assert (out / "link").readlink() == Path("file")
    assert (out / "nowhere").readlink() == Path("gone")
    stage(out, "link", "nowhere")
    assert content(out) == {"file": "old", "link": "new link", "nowhere": "new nowhere"}


def test_interrupted_after_the_last_rename_all_stay(out: Path, renaming: Callable[..., None]) -> None:
    renaming(2, KeyboardInterrupt(), True)
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
