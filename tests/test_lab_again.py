"""The headline by pictures, drawn anew: what it says otherwise than the committed results is said."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from lab.eye import again
from lab.eye.again import FOLDER, TARGETS, compared
from lab.eye.looking import adapter_of
from lab.results import ALONE, NATIVE, Key, Results
from lab.variants import BY_NAME, COPY
from lab.zoo import REPORTING, SCRATCH
from lorax.methods import REFINE
from tests.drawn import store


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A native shows four fifths of each style, a copy a half of that, and what is refined three quarters."""
    monkeypatch.setattr(again, "RESULTS", tmp_path / "committed")
    results = Results(tmp_path / "committed" / FOLDER)
    for style in REPORTING:
        for variant, share in ((ALONE, 0.0), (NATIVE, 0.8), (COPY, 0.4), (REFINE, 0.6)):
            store(results, adapter_of(style), TARGETS[0], variant, share)


def drawn_anew(folder: Path, refined: float) -> Path:
    results = Results(folder / FOLDER)
    for style in REPORTING:
        for variant, share in ((COPY, 0.4), (REFINE, refined)):
            store(results, adapter_of(style), TARGETS[0], variant, share)
    Results(folder).add_minutes(TARGETS[0], 1)  # the losses were measured on it
    return folder


@pytest.mark.usefixtures("committed")
def test_the_same_again_is_said_to_be_the_same(tmp_path: Path) -> None:
    said, apart = compared(drawn_anew(tmp_path / "anew", 0.6))
    assert not said
    assert apart == [0, 0], "a copy and refine, on the one target that was drawn on"


@pytest.mark.usefixtures("committed")
def test_a_target_that_is_not_drawn_anew_is_not_missed(tmp_path: Path) -> None:
    for style in REPORTING:
        for variant, share in ((ALONE, 0.0), (NATIVE, 0.8), (COPY, 0.0), (REFINE, 0.6)):
            store(Results(tmp_path / "committed" / FOLDER), adapter_of(style), SCRATCH, variant, share)
    folder = drawn_anew(tmp_path / "anew", 0.6)
    Results(folder).add_minutes(SCRATCH, 1)
    assert compared(folder)[0] == []


@pytest.mark.usefixtures("committed")
def test_what_shows_less_is_told(tmp_path: Path) -> None:
    said, apart = compared(drawn_anew(tmp_path / "anew", 0.2))
    name = "to finetune, refine, by pictures"
    assert [one.partition(":")[0] for one in said] == [name, f"{name}, less a copy"]
    assert max(apart) == pytest.approx(0.5, abs=0.01)


@pytest.mark.usefixtures("committed")
def test_what_was_not_drawn_is_told(tmp_path: Path) -> None:
    results = Results(tmp_path / "anew" / FOLDER)
    for variant in (COPY, REFINE):
        store(results, adapter_of(REPORTING[0]), TARGETS[0], variant, 0.1)
    Results(tmp_path / "anew").add_minutes(TARGETS[0], 1)
    name = "to finetune, {}, by pictures: not drawn again."
    assert compared(tmp_path / "anew") == ([name.format(COPY), name.format(REFINE)], [])


def test_what_is_not_committed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "RESULTS", tmp_path / "none")
    folder = drawn_anew(tmp_path / "anew", 0.6)
    results = Results(folder / FOLDER)
    for style in REPORTING:
        for variant, share in ((ALONE, 0.0), (NATIVE, 0.8)):
            store(results, adapter_of(style), TARGETS[0], variant, share)
    assert all(one.endswith("not in the committed results.") for one in compared(folder)[0])
    assert len(compared(folder)[0]) == 2


class Seen:
    """Stands for what draws, which takes minutes: remembers what it is asked for."""

    asked: ClassVar[list[tuple[str, str, tuple[str, ...]]]] = []

    def __init__(self, target: str, results: Results, *, briefly: bool) -> None:
        assert briefly, "its losses are not compared"
        self.target, self.results = target, results

    def has_native(self, style: str) -> bool:
        return Key(self.target, adapter_of(style).name, NATIVE) in self.results.reports

    def see(self, source: str, style: str, variants: tuple[str, ...]) -> None:
        self.asked.append((self.target, style, variants))


@pytest.mark.usefixtures("committed")
def test_what_is_drawn_anew_are_the_styles_for_reporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "Looker", Seen)
    monkeypatch.setattr(Seen, "asked", [])
    again.redraw(tmp_path / "anew", TARGETS[0])
    assert Seen.asked == [(TARGETS[0], style, again.REDRAWN) for style in REPORTING]
    with pytest.raises(SystemExit, match="lacks what LoRAs that were trained on pruned show"):
        again.redraw(tmp_path / "anew", TARGETS[1])
    assert {BY_NAME, COPY, REFINE} == set(again.REDRAWN)
