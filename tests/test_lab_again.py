"""The headline by pictures, drawn anew: what it says otherwise than the committed results is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.eye import again
from lab.eye.again import FOLDER, TARGETS, compared
from lab.eye.looking import adapter_of
from lab.results import ALONE, NATIVE, Results
from lab.variants import COPY
from lab.zoo import REPORTING
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
    return folder


@pytest.mark.usefixtures("committed")
def test_the_same_again_is_said_to_be_the_same(tmp_path: Path) -> None:
    said, apart = compared(drawn_anew(tmp_path / "anew", 0.6))
    assert not said
    assert apart == [0, 0], "a copy and refine, on the one target that was drawn on"


@pytest.mark.usefixtures("committed")
def test_what_shows_less_is_told(tmp_path: Path) -> None:
    said, apart = compared(drawn_anew(tmp_path / "anew", 0.2))
    name = "to finetune, refine, by pictures"
    assert [one.partition(":")[0] for one in said] == [name, f"{name}, less a copy"]
    assert max(apart) == pytest.approx(0.5, abs=0.01)


@pytest.mark.usefixtures("committed")
def test_half_of_the_styles_say_nothing(tmp_path: Path) -> None:
    results = Results(tmp_path / "anew" / FOLDER)
    for variant in (COPY, REFINE):
        store(results, adapter_of(REPORTING[0]), TARGETS[0], variant, 0.1)
    assert compared(tmp_path / "anew") == ([], [])
