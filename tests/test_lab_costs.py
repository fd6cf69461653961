"""What the lab says of refine with less work than usual, and how it has refine do less."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lab import variants
from lab.eye import figures
from lab.eye.by_models import HALVED, MIXED, SCAFFOLD, SIGNS, WEIGHTED
from lab.eye.costs import costs, less_usual
from lab.eye.ideas import BESIDE_REFINE, CHEAPER, CHOSEN_ON, FULL, ON_ANSWERS, ON_NOISE, SLOWER, STRENGTHS, VARIANTS
from lab.eye.looking import FOLDER, adapter_of
from lab.eye.looking import PROMPTS as ASKED
from lab.paths import RESULTS
from lab.pictures import SEEDS, TOP
from lab.results import ALONE, NATIVE, ORDINARY, Key, Results, native_of
from lab.variants import COPY, FROM_BRIDGE, Variant
from lab.zoo import CHOOSING, FURTHER, SCRATCH, SHOWN, XL, XL_PRUNED
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import BRIDGE, REFINE, Kinship, refine
from lorax.options import Options, Running
from lorax.transfer import by_models

LESS = "refine, 64 pictures, 8 a step, 120 steps"
ONE, OTHER = CHOOSING[:2]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Of two styles; refine as it usually is was drawn with one of them so far."""
    found = Results(tmp_path)

    def add(style: str, variant: str, strength: float, arrives: float) -> None:
        source = "" if variant in (ALONE, NATIVE) else BASE
        key = Key(XL, adapter_of(style).name, variant, source, strength)
        kept = [TOP - 1] * len(ASKED) + [TOP] * len(ASKED) * (SEEDS - 1)
        found.add_report(key, {"style": [arrives] * SEEDS * len(ASKED), "rank": kept})
        for on in ("style", ORDINARY):
            losses = torch.full((4, 2), 1 - arrives)
            found.add_losses(Key(XL, key.adapter, variant, source, strength, on), losses)

    for style in (ONE, OTHER):
        add(style, ALONE, 1.0, 0.0)
        found.add_losses(Key(XL, adapter_of(style).name, native_of(SHOWN[-1])), torch.full((4, 2), 0.9))
        for strength in STRENGTHS:
            add(style, NATIVE, strength, 0.8)
            add(style, FULL, strength, 0.6)
            if style == ONE:
                add(style, REFINE, strength, 0.4)
                add(style, LESS, strength, 0.2)
    return found


def test_less_work_is_set_beside_what_is_usual(results: Results) -> None:
    found = [one for one in figures.figures(results) if one.group == "choosing"]
    shown = {(one.target, one.variant): one for one in found}
    assert less_usual(shown[XL, REFINE], shown, results) is None
    less, more = (less_usual(shown[XL, name], shown, results) for name in (LESS, FULL))
    assert less
    assert more
    assert (less.mean, more.mean) == (pytest.approx(-0.25), pytest.approx(0.25)), "of the styles that both have"
    rows = costs(found, results).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [REFINE, LESS, FULL]
    assert f"{ONE}, {OTHER}" in rows[-1]


def test_without_what_is_usual_nothing_is_set_beside_it(results: Results) -> None:
    found = {(one.target, one.variant): one for one in figures.figures(results) if one.variant != REFINE}
    assert less_usual(found[XL, FULL], found, results) is None


def test_constants_are_the_variants_own_and_what_they_give_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a kept training does not tell the constants; a training that is watched is not kept."""
    usual, seen = refine.BATCH, []
    monkeypatch.setattr(variants, "plan", lambda *_: Planned())
    monkeypatch.setattr(variants, "open_adapter", lambda _: None)
    monkeypatch.setattr(by_models, "run", lambda *_, watch, **__: seen.append((refine.BATCH, watch is not None)))
    for variant in (Variant("some", Options(REFINE), constants=(("BATCH", 4),)), Variant("usual", Options(REFINE))):
        variants.move(variant, adapter_of(ONE), BASE, None, None)  # type: ignore[arg-type]
    assert seen == [(4, True), (usual, False)]
    assert usual == refine.BATCH


def test_the_plan_of_a_copy_has_the_captions_of_refine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaffold and the mask of signs learn from it."""
    monkeypatch.setattr(variants, "plan", lambda *given: Planned(given[-1]))
    monkeypatch.setattr(variants, "open_adapter", lambda _: None)
    monkeypatch.setattr(variants, "run", lambda _: None)
    planned, _ = variants.move(variants.VARIANTS[COPY], adapter_of(ONE), BASE, None, None)  # type: ignore[arg-type]
    assert planned.running == variants.VARIANTS[REFINE].running
    assert planned.running.captions


@dataclass(frozen=True)
class Planned:
    """What a plan is asked here."""

    running: Running | None = None


def test_each_one_that_was_tried_is_what_its_name_says() -> None:
    for name, one in CHEAPER.items():
        assert name in VARIANTS
        assert name == f"refine, {one.pictures} pictures, {dict(one.constants)['BATCH']} a step, {one.steps} steps"
    slower = ON_ANSWERS[SLOWER]
    batch, efforts = (dict(slower.constants)[one] for one in ("BATCH", "EFFORTS"))
    assert f"refine, {slower.pictures} pictures, {slower.steps} steps of {batch} at a lower rate" == SLOWER
    assert efforts[Kinship.STRANGERS].rate < refine.EFFORTS[Kinship.STRANGERS].rate
    assert {*ON_ANSWERS} <= {*VARIANTS}
    for name, one in ON_ANSWERS.items():
        if one is slower:
            continue
        assert name == f"refine, {one.pictures} pictures, {one.steps} steps"
        assert not one.constants


def test_what_the_page_says_of_them_holds() -> None:
    """lab/eye/seen.md.in, under the tables, says what the committed results say."""
    stored = Results(RESULTS / FOLDER)
    shown = {(one.target, one.variant): one for one in figures.figures(stored) if one.group == "choosing"}
    tried = {key: one for key, one in shown.items() if key[1] in {*ON_ANSWERS, *ON_NOISE, *CHEAPER}}
    less = {key: found for key, one in tried.items() if (found := less_usual(one, shown, stored))}
    longer = [one for (_, name), one in less.items() if name in ON_ANSWERS and not name.endswith(" 30 steps")]
    assert len(longer) == 5
    assert not any(one.is_above_zero or one.is_below_zero for one in longer)
    assert less[SCRATCH, SLOWER].mean > 0.03, "a little more on average"
    assert all(less[target, "refine, 64 pictures, 30 steps"].mean < -0.05 for target in (FINETUNE, PRUNED))
    noise = {target: one for (target, name), one in less.items() if name in ON_NOISE and target != XL_PRUNED}
    assert {target for target, one in noise.items() if one.is_below_zero} == {FINETUNE, PRUNED}
    assert noise[SCRATCH].mean < 0
    cheaper = [one for (target, name), one in less.items() if target == XL and name in CHEAPER]
    assert len(cheaper) == len(CHEAPER)
    assert not any(one.is_above_zero or one.is_below_zero for one in cheaper)


def test_what_the_page_says_of_other_ideas_holds() -> None:
    stored = Results(RESULTS / FOLDER)
    shown = {(one.target, one.variant): one for one in figures.figures(stored) if one.group == "choosing"}
    assert all(one.styles == CHOOSING for (_, name), one in shown.items() if name in {*BESIDE_REFINE, WEIGHTED, *HALVED})
    less = {key: found for key, one in shown.items() if key[1] in BESIDE_REFINE and (found := less_usual(one, shown, stored))}
    assert not any(one.is_above_zero for one in less.values()), "none shows more that could be told"
    _, whole_copy = MIXED
    told = {(CHOSEN_ON, whole_copy), (CHOSEN_ON, SIGNS), (PRUNED, SCAFFOLD)}
    assert {key for key, one in less.items() if one.is_below_zero} == told
    assert shown[CHOSEN_ON, SIGNS].recovery.high < -1, "great harm"
    assert {target for target, name in less if name not in (FROM_BRIDGE, SCAFFOLD)} == {CHOSEN_ON}
    assert all(less[target, SCAFFOLD].mean < -0.05 for target in (FINETUNE, FURTHER, PRUNED)), "less on average on all three"
    weighted, half = (less_usual(shown[SCRATCH, name], shown, stored, BRIDGE) for name in (WEIGHTED, *HALVED))
    assert weighted
    assert half
    assert weighted.low < 0 < weighted.high, "nothing that could be told"
    assert half.mean < -0.05, "less on average"
