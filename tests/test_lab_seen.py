"""What docs/seen.md and the README say by hand is what the committed results say."""

from __future__ import annotations

from lab.eye import figures
from lab.eye.blind import BLIND
from lab.eye.figures import HALVES
from lab.eye.frontier import Judged, frontier
from lab.eye.ideas import ANOTHER
from lab.eye.looking import FOLDER, PAIRS
from lab.eye.page import ALIKE, DOCS, MORE, PAGE, _beside_a_copy
from lab.eye.readers import SAME, Readers
from lab.eye.readme import TOLD, what_to_expect
from lab.paths import RESULTS
from lab.quotes import quoted
from lab.results import NATIVE, Results
from lab.variants import BY_NAME, COPY, LORAX
from lab.zoo import FURTHER, NEAR, REPORTING, SCRATCH, XL, XL_PRUNED
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import BRIDGE, REFINE

TUNED = (NEAR, FINETUNE, FURTHER)  # from near to far


def test_what_the_page_says_by_hand_holds() -> None:
    """lab/eye/seen.md.in and the verdicts tell what the committed results say."""
    found = {(one.target, one.half, one.variant): one for one in figures.figures(Results(RESULTS / FOLDER))}
    less = {key: one.less_copy for key, one in found.items() if one.less_copy}
    by_weights = [one for (target, _, variant), one in less.items() if target == FINETUNE and not variant.startswith(REFINE)]
    assert not any(one.is_above_zero for one in by_weights)
    copied = {half: found[FINETUNE, half, COPY].frontier.mean for half in HALVES}  # type: ignore[union-attr]
    gains = [one.high / copied[half] for (target, half, _), one in less.items() if target == FINETUNE and one in by_weights]
    assert 0.2 < max(gains) < 0.26, "a quarter"
    projected = {key: one for (*key, variant), one in less.items() if variant == LORAX for key in [tuple(key)]}
    assert {key for key, one in projected.items() if not one.is_below_zero} == {(XL_PRUNED, "reporting")}
    of_sibling = [found[XL_PRUNED, half, COPY].frontier for half in HALVES]
    assert [round(one.mean, 1) for one in of_sibling if one] == [0.7, 0.3]
    assert less[PRUNED, "reporting", BY_NAME].is_below_zero
    for half in HALVES:
        assert less[PRUNED, half, REFINE].is_above_zero
        assert less[FINETUNE, half, REFINE].is_above_zero
    refined = {half: found[PRUNED, half, REFINE].frontier.mean for half in HALVES}  # type: ignore[union-attr]
    assert {half: round(mean, 1) for half, mean in refined.items()} == {"choosing": 1.0, "reporting": 0.8}
    again = found[PRUNED, "reporting", ANOTHER].frontier
    assert again
    assert abs(again.mean - 1) < 0.05
    single = [_frontier_of(style, ANOTHER) for style in REPORTING]
    assert (0.83 < min(single) < 0.87, 1.3 < max(single) < 1.36) == (True, True)
    copied = {half: found[PRUNED, half, COPY].frontier.mean for half in HALVES}  # type: ignore[union-attr]
    assert all(1.9 < refined[half] / copied[half] < 2.3 for half in HALVES)
    for half in HALVES:
        copies, refines = ([found[one, half, of].frontier.mean for one in TUNED] for of in (COPY, REFINE))  # type: ignore[union-attr]
        assert (copies[0] > 0.74, all(0.44 < one < 0.67 for one in copies[1:])) == (True, True)
        assert (abs(refines[0] - 1) < 0.1, all(one > 0.7 for one in refines[1:])) == (True, True)
        added = [less[target, half, REFINE].mean for target in TUNED]
        assert sorted(added) == added
    assert {one: [_beside_a_copy(less[one, half, REFINE]) for half in HALVES] for one in TUNED} == {
        NEAR: [MORE, ALIKE],
        FINETUNE: [MORE, MORE],
        FURTHER: [MORE, ALIKE],
    }
    tuned = [found[FINETUNE, half, REFINE].frontier.mean for half in HALVES]  # type: ignore[union-attr]
    assert [round(one, 1) for one in tuned] == [0.9, 0.7]
    siblings = {half: found[XL_PRUNED, half, REFINE] for half in HALVES}
    assert all(abs(one.frontier.mean - 1) < 0.1 for one in siblings.values())  # type: ignore[union-attr]
    assert [_beside_a_copy(less[XL_PRUNED, half, REFINE]) for half in HALVES] == [ALIKE, MORE]
    strangers = {(half, one): found[SCRATCH, half, one].frontier for half in HALVES for one in (COPY, BRIDGE, REFINE)}
    assert [round(4 * strangers[half, REFINE].mean) for half in HALVES] == [2, 3], "a half, and three quarters"  # type: ignore[union-attr]
    assert all(strangers[half, BRIDGE].mean < 0.25 for half in HALVES)  # type: ignore[union-attr]
    assert all(less[SCRATCH, half, REFINE].is_above_zero for half in HALVES)
    crossed = {(half, one): found[XL, half, one].frontier for half in HALVES for one in (BRIDGE, REFINE)}
    assert crossed["choosing", REFINE].low > 1  # type: ignore[union-attr]
    assert abs(crossed["reporting", REFINE].mean - 1) < 0.1  # type: ignore[union-attr]
    assert all(0.5 < crossed[half, BRIDGE].mean < 0.8 for half in HALVES)  # type: ignore[union-attr]
    at_one = {(half, one): found[XL, half, one].at[1.0][0] for half in HALVES for one in (BRIDGE, NATIVE)}
    assert all(at_one[half, BRIDGE] < 0.4 * at_one[half, NATIVE] for half in HALVES)
    results = Results(RESULTS / FOLDER)
    for half in HALVES:
        on_xl, on_pruned = (
            figures.point(results, one, NATIVE, "", found[XL, half, NATIVE].styles, 1.0)[0] for one in (XL, PRUNED)
        )
        assert on_xl < on_pruned / 2
    fronts = [found[PRUNED, half, COPY].frontier for half in HALVES]
    assert [one and one.mean < 0.5 for one in fronts] == [True, True]
    tuned_by = [told for what, half, _, told in Readers(RESULTS, FINETUNE).of_refine() if (what, half) == ("style", "reporting")]
    assert tuned_by == [{REFINE: 4}] * 2
    readers = Readers(RESULTS, PRUNED)
    for said in readers.said.values():
        more = {what: {n for n, pair in readers.even if _which(pair, said[what][n]) == REFINE} for what in ("style", "content")}
        assert (len(readers.even), len(more["style"])) == (15, 13)


def test_the_readme_says_what_was_seen() -> None:
    found = figures.figures(Results(RESULTS / FOLDER))
    assert quoted(DOCS.parent / "README.md", "seen") == what_to_expect(found)
    assert {(one.source, one.target) for one in found} == {*TOLD} == {*PAIRS}


def test_the_page_has_all_readers() -> None:
    asked = [path.name for path in (RESULTS / FOLDER / BLIND).iterdir()]
    assert [target for target in asked if f"to {target}, by readers" not in PAGE.read_text()] == []


def _frontier_of(style: str, variant: str) -> float:
    """On the pruned sibling."""
    results = Results(RESULTS / FOLDER)
    curves = [figures.curve(results, PRUNED, one, of, style) for one, of in ((variant, BASE), (NATIVE, ""))]
    return frontier([Judged(*curves, None)]).mean


def _which(pair: dict[str, dict[str, str]], answer: str) -> str:
    return answer if answer == SAME else pair[answer.lower()]["variant"]
