"""Measures by pictures: what a curve of style against content is worth, and what the styles are."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lab import styles
from lab.eye import figures, records
from lab.eye.at_length import AT_LENGTH
from lab.eye.blind import BLIND, COUNT, EVENLY, KEY, Drawer, _pairs, digest
from lab.eye.frontier import Curve, Judged, frontier, less_copy, style_at_native_content
from lab.eye.ideas import BY_THE_WAY, CHEAPER, DRAWN, LOST, ON_ANSWERS, STRENGTHS, VARIANTS, is_drawn
from lab.eye.looking import FOLDER, PAIRS, adapter_of
from lab.eye.page import ALIKE, LESS, MORE, _beside_a_copy
from lab.eye.readers import SAME, Readers
from lab.paths import RESULTS
from lab.pictures import TOP
from lab.results import ALONE, NATIVE, ORDINARY, Key, Results, native_of
from lab.stats import Interval, recovered
from lab.variants import BY_NAME, COPY
from lab.zoo import CHOOSING, REPORTING, SCRATCH, SCRATCH_LONG, SHOWN, XL, are_related, kind_of
from lorax.demo.bundle import FINETUNE, PRUNED
from lorax.methods import REFINE
from lorax.transfer.expected import CROSSED

PROMPTS = 12


def curve(style: list[float], content: list[float]) -> Curve:
    """The same for each prompt."""
    values = [np.repeat(np.array(one)[:, None], PROMPTS, 1) for one in (style, content)]
    return Curve(tuple(np.linspace(0, 1, len(style))), *values)


NATIVE_CURVE = curve([0, 0.5, 1], [0.8, 0.8, 0.8])
WEAKER = curve([0, 0.25, 0.5], [0.8, 0.8, 0.8])
BREAKING = curve([0, 0.5, 1], [0.8, 0.4, 0.0])  # all of the style at the price of the subject


def test_a_frontier_counts_style_only_where_the_subject_is_kept() -> None:
    found = {name: frontier([Judged(one, NATIVE_CURVE, WEAKER)]).mean for name, one in (("weak", WEAKER), ("breaking", BREAKING))}
    assert frontier([Judged(NATIVE_CURVE, NATIVE_CURVE, WEAKER)]).mean == pytest.approx(1)
    assert found["weak"] == pytest.approx(0.5)
    assert found["breaking"] == pytest.approx(0.5, abs=0.05)  # the triangle below the line from (0.8, 0) to (0, 1)
    assert style_at_native_content([Judged(BREAKING, NATIVE_CURVE, WEAKER)]).mean == pytest.approx(0)
    assert style_at_native_content([Judged(WEAKER, NATIVE_CURVE, WEAKER)]).mean == pytest.approx(0.5)


def test_a_copy_is_compared_at_its_best_strength() -> None:
    """Twice the strength is no gain: it lies on the copy's own curve."""
    long = curve([0, 0.25, 0.5, 0.75, 1], [0.8, 0.8, 0.8, 0.8, 0.8])
    strong = curve([0, 0.5, 1], [0.8, 0.8, 0.8])
    assert less_copy([Judged(strong, NATIVE_CURVE, long)]).mean == pytest.approx(0)
    assert less_copy([Judged(WEAKER, NATIVE_CURVE, strong)]).is_below_zero


def test_an_interval_holds_what_other_prompts_could_have_given() -> None:
    generator = np.random.default_rng(3)
    noisy = dataclasses.replace(WEAKER, style=np.clip(WEAKER.style + 0.3 * generator.standard_normal(WEAKER.style.shape), 0, 1))
    found = frontier([Judged(noisy, NATIVE_CURVE, WEAKER)])
    assert found.low < found.mean < found.high


def test_specific_recovery_is_zero_for_what_any_style_gives(tmp_path: object) -> None:
    """If the copy gains what the other styles' natives gain, nothing of it is the style."""
    results = Results(tmp_path)  # type: ignore[arg-type]
    source, target = PAIRS[0]
    for style, loss in ((CHOOSING[0], 0.6), (CHOOSING[1], 0.2)):
        name = adapter_of(style).name
        for key, value in (
            (Key(target, name, ALONE), 1.0),
            (Key(target, name, NATIVE), 0.2),
            (Key(target, name, COPY, source), loss),
            (Key(target, name, native_of(SHOWN[-1])), 0.6),
        ):
            results.add_losses(key, torch.full((4, 2), value))
    keys = [Key(target, adapter_of(style).name, COPY, source) for style in CHOOSING[:2]]
    found = [recovered([figures.beyond_others(results, key)]) for key in keys]
    assert found == pytest.approx([0, 1])


def test_what_shows_nothing_new_is_not_drawn() -> None:
    drawn = {(one, target, style) for one in VARIANTS for _, target in PAIRS for style in SHOWN if is_drawn(one, target, style)}
    assert {(target, style) for one, target, style in drawn if one in LOST} == {(FINETUNE, style) for style in CHOOSING}
    for tried, targets in ((CHEAPER, {XL}), (ON_ANSWERS, {FINETUNE, PRUNED, SCRATCH})):
        found = {(target, style) for one, target, style in drawn if one in tried}
        assert found == {(target, style) for target in targets for style in CHOOSING}
    at_length = {(target, style) for one, target, style in drawn if one == AT_LENGTH}
    assert at_length == {(target, style) for target in (PRUNED, SCRATCH, SCRATCH_LONG) for style in SHOWN}, "both halves"
    assert {target for one, target, _ in drawn if one == BY_NAME} == {PRUNED}
    copied = {target for one, target, _ in drawn if one == COPY}
    assert copied == {pair[1] for pair in PAIRS if kind_of(*pair) != CROSSED}, "to XL nothing can be copied"


def test_each_strength_has_a_record(tmp_path: Path) -> None:
    """With what is measured by losses and by pictures, and the half to which the style belongs."""
    results, (source, target), style = Results(tmp_path), PAIRS[0], REPORTING[0]
    name = adapter_of(style).name
    losses = {(ALONE, "", 1.0): (1.0, 0.5), (NATIVE, "", 1.0): (0.2, 0.6), (COPY, source, 0.5): (0.6, 0.75)}
    for (variant, of, strength), (loss, ordinary) in losses.items():
        results.add_losses(Key(target, name, variant, of, strength), torch.full((4, 2), loss))
        results.add_losses(Key(target, name, variant, of, strength, ORDINARY), torch.full((4, 2), ordinary))
        seen = {"style": [0.25] * 2 * PROMPTS, "rank": [TOP - 1] * PROMPTS + [TOP] * PROMPTS}
        results.add_report(Key(target, name, variant, of, strength), seen)
    results.add_losses(Key(target, name, native_of(SHOWN[0])), torch.full((4, 2), 0.8))
    native, copy = records(results)
    assert (native["variant"], native["recovery"], native["harm"]) == (NATIVE, 1, pytest.approx(0.2))
    assert (copy["variant"], copy["strength"], copy["style"], copy["group"]) == (COPY, 0.5, style, "reporting")
    found = [copy[what] for what in ("recovery", "specific", "harm", "style_arrives", "content_kept")]
    assert found == pytest.approx([0.5, 1 / 3, 0.5, 0.25, 0.5], abs=1e-3)
    assert copy["recovery_low"] <= copy["recovery"] <= copy["recovery_high"]
    results.add_report(Key(target, name, COPY, source, 1.5), {"style": [1.0] * 2 * PROMPTS, "rank": [TOP] * 2 * PROMPTS})
    *_, drawn_alone = records(results)
    assert [drawn_alone[what] for what in ("recovery", "specific", "harm", "style_arrives")] == [None, None, None, 1]


def test_what_was_tried_by_the_way_has_losses_at_strength_1_alone() -> None:
    results = Results(RESULTS / FOLDER)
    found = {key.strength for key in results.losses if key.variant in BY_THE_WAY}
    assert found == {1.0}


@pytest.mark.parametrize("name", SHOWN)
def test_each_style_is_a_picture_of_the_same_subject_and_no_other_style(name: str) -> None:
    plain = torch.ones(2, 3, 64, 64)
    plain[:, 0, 16:48, 16:48], plain[:, 2, 24:40, 24:40] = 0.2, 0.9
    drawn = {one: of(plain) for one, of in styles.FILTERS.items()}
    assert drawn[name].shape == plain.shape
    assert drawn[name].min() >= 0
    assert drawn[name].max() <= 1
    assert all((drawn[name] - other).abs().mean() > 0.02 for one, other in drawn.items() if one != name)
    assert (drawn[name] - styles.FILTERS[name](torch.ones_like(plain))).abs().mean() > 0.02  # what is drawn is seen in it


def test_the_halves_share_no_style() -> None:
    assert not set(CHOOSING) & set(REPORTING)
    assert {*CHOOSING, *REPORTING} == set(styles.FILTERS)


def answered(folder: Path, pairs: list[dict[str, object]], target: str = PRUNED, **readers: list[str]) -> Readers:
    """Pairs, and what readers said of their styles; of the content they always say ``B``."""
    asked = folder / FOLDER / BLIND / target
    asked.mkdir(parents=True, exist_ok=True)
    key = json.dumps(pairs).encode()
    (asked / KEY).write_bytes(key)
    for name, answers in readers.items():
        said = {f"{number:02}": {"style": answer, "content": "B"} for number, answer in enumerate(answers)}
        (asked / f"{name}.json").write_text(json.dumps({"pairs": digest(key), "answers": said}))
    return Readers(folder, target)


def sheet(style: float, content: float, variant: str = COPY, strength: float = 1.0) -> dict[str, object]:
    return {"style": style, "content": content, "variant": variant, "strength": strength}


def test_readers_and_measure_are_compared_where_both_can_tell(tmp_path: Path) -> None:
    sheets = [sheet(0.9, 0.1), sheet(0.2, 0.5), sheet(0.2, 0.1)]
    pairs = [{"a": sheets[0], "b": sheets[1]}, {"a": sheets[1], "b": sheets[2]}]  # of the second, the style is the same
    readers = answered(tmp_path, pairs, one=["A", "A"], other=["B", SAME])
    found = {(what, name): {by: (one.right, one.answers) for by, one in its.items()} for what, name, its in readers.agreements()}
    assert found["style", "one"] == {"the measure": (1, 1), "other": (0, 1)}
    assert found["style", "other"] == {"the measure": (0, 1), "one": (0, 1)}
    assert found["content", "one"] == {"the measure": (1, 2), "other": (2, 2)}
    assert readers.named() == {}, "nobody was asked"


def test_a_reader_may_name_the_styles(tmp_path: Path) -> None:
    pairs = [{"style": style, "a": sheet(0.9, 0.1), "b": sheet(0.2, 0.5)} for style in SHOWN[:3]]
    answered(tmp_path, pairs, one=["A"] * 3)
    file = tmp_path / FOLDER / BLIND / PRUNED / "one.json"
    said = json.loads(file.read_text())
    for answer, name in zip(said["answers"].values(), (SHOWN[0], SHOWN[0], "none"), strict=True):
        answer["name"] = name
    file.write_text(json.dumps(said))
    assert Readers(tmp_path, PRUNED).named() == {"one": 1}


def test_what_readers_say_of_refine_is_counted_with_as_many_subjects(tmp_path: Path) -> None:
    copy, refine = sheet(0, 0), sheet(0, 0, REFINE)
    sheets = [(copy, refine), (refine, copy), (copy, refine), (copy, refine), (copy, refine)]
    styles = [REPORTING[0]] * 4 + [CHOOSING[0]]
    pairs = [
        {"style": style, EVENLY: n != 2, "a": a, "b": b} for n, (style, (a, b)) in enumerate(zip(styles, sheets, strict=True))
    ]
    readers = answered(tmp_path, pairs, one=["B", "B", "B", SAME, "A"])
    found = {half: told for what, half, _, told in readers.of_refine() if what == "style"}
    assert found == {"choosing": {COPY: 1}, "reporting": {REFINE: 1, COPY: 1, SAME: 1}}


def test_answers_to_other_pairs_are_refused(tmp_path: Path) -> None:
    answered(tmp_path, [{"a": sheet(0.9, 0.1), "b": sheet(0.2, 0.5)}], one=["A"])
    (tmp_path / FOLDER / BLIND / PRUNED / KEY).write_text(json.dumps([{"a": sheet(0.1, 0.1), "b": sheet(0.2, 0.5)}]))
    with pytest.raises(SystemExit, match="answers to other pairs"):
        Readers(tmp_path, PRUNED)


def test_no_two_sheets_are_set_side_by_side_twice() -> None:
    """Up to half of them are refine and its rival, where that is known of both. Where a copy does nothing it is not shown."""
    results = Results(RESULTS / FOLDER)
    for (source, target), names in itertools.product(PAIRS, (SHOWN[:6], SHOWN)):
        drawers = [Drawer(source, target, style) for style in names]
        pairs = list(_pairs(drawers, results))
        assert len({(drawer, frozenset(pair)) for drawer, pair, _ in pairs}) == len(pairs) == COUNT
        expected = sum(2 for one in drawers if _is_seen(results, one))
        assert sum(is_even for _, _, is_even in pairs) == min(expected, COUNT // 2)
        assert {variant for _, pair, _ in pairs for variant, _ in pair} <= {ALONE, NATIVE, *DRAWN[target]}
        assert any(variant == COPY for _, pair, _ in pairs for variant, _ in pair) == are_related(source, target)


def _is_seen(results: Results, drawer: Drawer) -> bool:
    return Key(drawer.target, adapter_of(drawer.style).name, REFINE, drawer.source) in results.reports


def test_refine_is_shown_at_the_largest_strength_that_keeps_as_many_subjects(tmp_path: Path) -> None:
    results, drawer = Results(tmp_path), Drawer(*PAIRS[1], SHOWN[0])
    name = adapter_of(drawer.style).name

    def add(variant: str, *kept: int) -> None:
        for strength, count in zip(STRENGTHS, kept, strict=True):
            ranks = [TOP - 1] * count + [TOP] * (2 * PROMPTS - count)
            key = Key(drawer.target, name, variant, drawer.source, strength)
            results.add_report(key, {"style": [0.5] * 2 * PROMPTS, "rank": ranks})

    results.add_report(Key(drawer.target, name, ALONE), {"style": [0.0] * 2 * PROMPTS, "rank": [0] * 2 * PROMPTS})
    add(REFINE, 8, 7, 6, 5, 4, 3)
    assert drawer.even(results) == [], "nothing is known of the copy"
    add(COPY, 9, 9, 5, 8, 9, 9)
    assert drawer.even(results) == [((COPY, 0.75), (REFINE, 1.0)), ((COPY, 1.0), (REFINE, 0.25))]


@pytest.mark.parametrize(("low", "high", "said"), [(0.1, 0.2, MORE), (-0.2, -0.1, LESS), (-0.1, 0.1, ALIKE)])
def test_a_sentence_claims_a_difference_only_if_it_is_sure(low: float, high: float, said: str) -> None:
    assert _beside_a_copy(Interval((low + high) / 2, low, high)) == said
