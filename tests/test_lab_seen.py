"""What docs/seen.md, docs/findings.md, the README and the verdicts say by hand of pictures is what the committed results say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.eye import figures
from lab.eye.blind import BLIND
from lab.eye.figures import HALVES, Figure
from lab.eye.frontier import Judged, frontier
from lab.eye.ideas import ANOTHER
from lab.eye.kinds import of_groups
from lab.eye.looking import FOLDER, adapter_of
from lab.eye.page import ALIKE, MORE, PAGE, _beside_a_copy
from lab.eye.readers import Readers
from lab.eye.readme import TOLD, what_to_expect
from lab.eye.told import write
from lab.paths import RESULTS, ROOT
from lab.quotes import quoted
from lab.results import ALONE, NATIVE, Key, Results
from lab.stats import Interval
from lab.variants import BY_NAME, COPY, LORAX
from lab.zoo import FURTHER, NEAR, REPORTING, SCRATCH, SCRATCH_AGAIN, SCRATCH_LONG, XL, XL_LONG, XL_PRUNED
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import BRIDGE, REFINE
from lorax.transfer.forecast import SEEN

TUNED = (NEAR, FINETUNE, FURTHER)  # from near to far
Of = tuple[str, str, str]  # target, half, variant


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(RESULTS / FOLDER)


@pytest.fixture(scope="module")
def found(results: Results) -> list[Figure]:
    return figures.figures(results)


@pytest.fixture(scope="module")
def shown(found: list[Figure]) -> dict[Of, Interval]:
    """Frontiers."""
    return {(one.target, one.group, one.variant): one.frontier for one in found if one.frontier}


@pytest.fixture(scope="module")
def less(found: list[Figure]) -> dict[Of, Interval]:
    return {(one.target, one.group, one.variant): one.less_copy for one in found if one.less_copy}


@pytest.fixture(scope="module")
def at_one(found: list[Figure]) -> dict[Of, tuple[float, float]]:
    """Style and content at strength 1."""
    return {(one.target, one.group, one.variant): one.at[1.0] for one in found}


def test_of_fine_tunes(shown: dict[Of, Interval], less: dict[Of, Interval]) -> None:
    for half in HALVES:
        near, *far = (shown[target, half, COPY].mean for target in TUNED)
        assert near > 0.74, "three quarters and more"
        assert all(0.44 < one < 0.67 for one in far), "half to two thirds"
        near, *far = (shown[target, half, REFINE].mean for target in TUNED)
        assert abs(near - 1) < 0.1, "about as much"
        assert all(one > 0.7 for one in far)
        near, *far = (less[target, half, REFINE].mean for target in TUNED)
        assert min(far) > near, "added more there"
        assert 0.44 < shown[FURTHER, half, COPY].mean < 0.54, "about half"
        assert shown[FURTHER, half, REFINE].mean > 0.74
    assert [round(shown[FINETUNE, half, REFINE].mean, 1) for half in HALVES] == [0.9, 0.7]
    assert {one: [_beside_a_copy(less[one, half, REFINE]) for half in HALVES] for one in TUNED} == {
        NEAR: [MORE, ALIKE],
        FINETUNE: [MORE, MORE],
        FURTHER: [MORE, ALIKE],
    }


def test_of_methods_by_weights(shown: dict[Of, Interval], less: dict[Of, Interval]) -> None:
    gains = {key: one for key, one in less.items() if key[0] == FINETUNE and not key[2].startswith((REFINE, ANOTHER))}
    assert not any(one.is_above_zero for one in gains.values())
    most = max(one.high / shown[target, half, COPY].mean for (target, half, _), one in gains.items())
    assert 0.2 < most < 0.26, "a quarter"
    projected = {(target, half) for (target, half, variant), one in less.items() if variant == LORAX and not one.is_below_zero}
    assert projected == {(XL_PRUNED, "reporting")}


def test_of_slimmed_down_siblings(shown: dict[Of, Interval], less: dict[Of, Interval]) -> None:
    assert [round(shown[XL_PRUNED, half, COPY].mean, 1) for half in HALVES] == [0.7, 0.3]
    assert all(abs(shown[XL_PRUNED, half, REFINE].mean - 1) < 0.1 for half in HALVES)
    assert [_beside_a_copy(less[XL_PRUNED, half, REFINE]) for half in HALVES] == [ALIKE, MORE]
    assert less[PRUNED, "reporting", BY_NAME].is_below_zero
    assert [round(shown[PRUNED, half, REFINE].mean, 1) for half in HALVES] == [1.0, 0.8]
    for half in HALVES:
        assert less[PRUNED, half, REFINE].is_above_zero
        assert max(shown[PRUNED, half, one].mean for one in (COPY, BY_NAME)) < 0.5
        assert 1.9 < shown[PRUNED, half, REFINE].mean / shown[PRUNED, half, COPY].mean < 2.3


def test_of_natives_of_another_seed(results: Results, shown: dict[Of, Interval]) -> None:
    single = []
    for target in (PRUNED, FINETUNE):
        assert abs(shown[target, "reporting", ANOTHER].mean - 1) < 0.05, "as much"
        sides = ((ANOTHER, BASE), (NATIVE, ""))
        curves = ([figures.curve(results, target, one, of, style) for one, of in sides] for style in REPORTING)
        single += [frontier([Judged(*its, None)]).mean for its in curves]
    assert 0.83 < min(single) < 0.87, "a sixth less"
    assert 1.3 < max(single) < 1.36, "a third more"


def test_of_strangers(shown: dict[Of, Interval], less: dict[Of, Interval], at_one: dict[Of, tuple[float, float]]) -> None:
    assert [round(4 * shown[SCRATCH, half, REFINE].mean) for half in HALVES] == [2, 3], "a half, and three quarters"
    for half in HALVES:
        assert shown[SCRATCH, half, COPY].mean < 0.1, "nothing"
        assert shown[SCRATCH, half, BRIDGE].mean < 0.25, "little"
        assert less[SCRATCH, half, REFINE].is_above_zero
        assert at_one[SCRATCH, half, REFINE][1] < at_one[SCRATCH, half, NATIVE][1], "fewer subjects"


def test_of_the_stranger_from_another_seed(shown: dict[Of, Interval], less: dict[Of, Interval]) -> None:
    refined, bridged, copied = (shown[SCRATCH_AGAIN, "reporting", one].mean for one in (REFINE, BRIDGE, COPY))
    assert abs(refined - 0.5) < 0.05, "half"
    assert abs(bridged - 0.25) < 0.02, "a quarter"
    assert copied < 0.02, "nothing"
    assert less[SCRATCH_AGAIN, "reporting", REFINE].is_above_zero


def test_of_the_stranger_that_was_trained_for_longer(shown: dict[Of, Interval], less: dict[Of, Interval]) -> None:
    worse, better = (shown[target, "reporting", REFINE] for target in (SCRATCH, SCRATCH_LONG))
    assert worse.mean > better.mean, "less"
    assert better.low < worse.mean, "the two are not told apart"
    assert 0.5 < better.mean < 0.6, "more than half"
    assert less[SCRATCH_LONG, "reporting", REFINE].is_above_zero
    assert shown[SCRATCH_LONG, "reporting", COPY].mean < 0.02, "nothing"
    assert shown[SCRATCH_LONG, "reporting", BRIDGE].mean < 0.25, "little"


def test_of_another_family(
    results: Results, found: list[Figure], shown: dict[Of, Interval], at_one: dict[Of, tuple[float, float]]
) -> None:
    assert shown[XL, "choosing", REFINE].low > 1
    assert abs(shown[XL, "reporting", REFINE].mean - 1) < 0.1
    for half in HALVES:
        assert 0.5 < shown[XL, half, BRIDGE].mean < 0.8
        assert at_one[XL, half, BRIDGE][0] < 0.4 * at_one[XL, half, NATIVE][0]
        bridged = next(one.at for one in found if (one.target, one.group, one.variant) == (XL, half, BRIDGE))
        assert bridged[1.5][0] > 1.5 * bridged[1.0][0], "more at a weight above 1"
        styles = next(one.styles for one in found if (one.target, one.group, one.variant) == (XL, half, NATIVE))
        on_xl, on_pruned = (figures.point(results, target, NATIVE, "", styles, 1.0)[0] for target in (XL, PRUNED))
        assert on_xl < on_pruned / 2


def test_of_the_family_that_was_trained_for_longer(
    results: Results, shown: dict[Of, Interval], at_one: dict[Of, tuple[float, float]]
) -> None:
    sure = {on: figures.point(results, on, NATIVE, "", REPORTING, 1.0)[0] for on in (XL, XL_LONG, PRUNED)}
    assert sure[XL_LONG] > 1.3 * sure[XL], "more"
    assert abs(sure[XL_LONG] / sure[PRUNED] - 2 / 3) < 0.05, "two thirds as sure, as the README says, too"
    (native, kept), (refined, left), (bridged, _) = (at_one[XL_LONG, "reporting", one] for one in (NATIVE, REFINE, BRIDGE))
    assert abs(shown[XL_LONG, "reporting", REFINE].mean - 1) < 0.05, "as much"
    assert 0.5 < shown[XL_LONG, "reporting", BRIDGE].mean < 0.6, "more than half"
    assert abs(refined / native - 2 / 3) < 0.05, "about two thirds"
    assert kept - 0.05 < left < kept, "nearly as many subjects"
    assert bridged < 0.1 * native, "hardly any"


def test_bridge_shows_less_than_refine(shown: dict[Of, Interval]) -> None:
    looked_at = [(target, half) for target, half, variant in shown if variant == BRIDGE]
    assert {target for target, _ in looked_at} == {SCRATCH, SCRATCH_LONG, SCRATCH_AGAIN, XL, XL_LONG}
    assert all(shown[(*one, BRIDGE)].mean < shown[(*one, REFINE)].mean for one in looked_at)


def test_bridge_shows_little_at_1_and_costs_subjects_above(results: Results) -> None:
    for target in (SCRATCH_LONG, XL_LONG):
        (style, kept), (more, left) = (figures.point(results, target, BRIDGE, BASE, REPORTING, at) for at in (1.0, 1.25))
        assert style < 0.15, "little"
        assert more > 2 * style
        assert left < kept / 2, "as README and verdict say"


def test_of_what_draws_a_style_by_itself(results: Results) -> None:
    sure = np.mean(results.reports[Key(FURTHER, adapter_of("ink").name, ALONE)]["style"])
    assert 0.3 < sure < 0.37, "a third"


def test_of_readers() -> None:
    for target, more, in_copy in ((PRUNED, 13, 5), (FURTHER, 11, 4)):
        readers = Readers(RESULTS, target)
        for reader in readers.said:
            seen = sum(one[REFINE] for what, _, name, one in readers.of_refine() if (what, name) == ("style", reader))
            assert (len(readers.even), seen) == (15, more)
        told = {one[COPY] for what, half, _, one in readers.of_refine() if (what, half) == ("content", "choosing")}
        assert told == {in_copy}, "of 8 pairs"
    tuned = {(half, name): told for what, half, name, told in Readers(RESULTS, FINETUNE).of_refine() if what == "style"}
    assert [told for (half, _), told in tuned.items() if half == "reporting"] == [{REFINE: 4}] * 2
    assert [(told[REFINE], told[COPY]) for (half, _), told in tuned.items() if half == "choosing"] == [(1, 2), (1, 4)]
    for target, in_native, after_refine in ((SCRATCH_LONG, [8, 8], [4, 3]), (XL_LONG, [6, 6], [5, 5])):
        readers = Readers(RESULTS, target)
        assert [told[NATIVE] for what, _, _, told in readers.of_refine() if what == "style"] == in_native
        assert [told[REFINE] for what, _, _, told in readers.of_refine() if what == "content"] == after_refine
        assert len(readers.even) == 8


def test_the_readme_says_what_was_seen(results: Results, found: list[Figure]) -> None:
    every = [*found, *of_groups(results)]
    assert quoted(ROOT / "README.md", "seen") == what_to_expect(every)
    told = {(source, target) for source, target, half in TOLD if half in HALVES}
    assert told == {(one.source, one.target) for one in found if one.target not in (SCRATCH, SCRATCH_AGAIN, XL)}
    assert {*TOLD} <= {(one.source, one.target, one.group) for one in every}


def test_lorax_tells_what_was_seen(results: Results, tmp_path: Path) -> None:
    write(results, tmp_path / "seen.json")
    assert (tmp_path / "seen.json").read_text() == SEEN.read_text()


def test_the_page_has_all_readers() -> None:
    asked = [path.name for path in (RESULTS / FOLDER / BLIND).iterdir()]
    assert [target for target in asked if f"to {target}, by readers" not in PAGE.read_text()] == []
