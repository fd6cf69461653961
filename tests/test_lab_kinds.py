"""LoRAs like people's: other ranks, convolutions, the UNet alone, and characters with a trigger word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab import data
from lab.characters import FIGURES
from lab.eye import figures
from lab.eye.figures import HALVES
from lab.eye.ideas import DRAWN_OF_KINDS, VARIANTS, is_drawn
from lab.eye.judge import JUDGES, PLAIN, choices, judge
from lab.eye.kinds import GROUPS, USUAL, of_groups, of_kinds
from lab.eye.looking import FOLDER, PAIRS, PROMPTS, adapter_of, prompts_of
from lab.paths import RESULTS
from lab.results import ALONE, NATIVE, Key, Results
from lab.variants import BY_NAME, COPY
from lab.zoo import ADAPTERS, CHARACTERS, LOOKED_AT, REPORTING, SHOWN, others
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import REFINE
from tests.drawn import store

ICONS = torch.ones(8, 3, 64, 64)
ICONS[:, 0, 8:56, 8:56] = 0.2


def test_each_kind_differs_from_the_usual_lora_in_what_it_says() -> None:
    of_styles = [group for group in GROUPS if "," not in group or "rank" in group]
    assert of_styles == [USUAL, "rank 16", "rank 32", "rank 16, convolutions too", "rank 16, UNet alone"]
    for label in set(LOOKED_AT) - set(SHOWN):
        adapter, usual = adapter_of(label), adapter_of(REPORTING[0])
        assert (adapter.steps, adapter.batch) == (usual.steps, usual.batch)
        assert adapter.is_character == (label in CHARACTERS)
        assert adapter.is_character or (adapter.rank, adapter.convolution, adapter.text) != (4, False, True)
        assert all((BASE, target) in PAIRS for target in adapter.bases if target != BASE)
        assert not any(adapter.packed(base) for base in adapter.bases)


def test_no_method_was_chosen_by_them() -> None:
    """Other kinds are of styles for reporting, and what is drawn with them is what the tool has anyway."""
    assert {one.icons for one in ADAPTERS.values() if one.kind} - set(CHARACTERS) < set(REPORTING)
    drawn = {one for one in VARIANTS for label in LOOKED_AT if label not in SHOWN if is_drawn(one, PRUNED, label)}
    assert drawn == set(DRAWN_OF_KINDS)


def test_what_is_specific_is_told_within_a_kind() -> None:
    assert [one.icons for one in others(adapter_of("pib"))] == ["krag", "mulu"]
    assert [one.name for one in others(adapter_of("neon-r32"))] == ["frame-r32-long"]
    assert {one.icons for one in others(adapter_of("neon"))} == set(SHOWN) - {"neon"}


@pytest.mark.parametrize("name", CHARACTERS)
def test_a_character_stands_beside_the_subject_in_a_pose_of_its_own(name: str) -> None:
    drawn = FIGURES[name](ICONS)
    assert drawn.shape == ICONS.shape
    assert torch.equal(drawn, FIGURES[name](ICONS)), "a set is the same each time"
    poses = list(FIGURES[name](torch.ones_like(ICONS)))
    assert all(0.02 < (1 - pose).mean() < 0.25 for pose in poses)
    assert len({pose.numpy().tobytes() for pose in poses}) == len(poses)
    sides = {bool((1 - pose)[..., :32].sum() > (1 - pose)[..., 32:].sum()) for pose in poses}
    assert sides == {True, False}
    subject = (drawn[:, 0] < 0.3) & (drawn[:, 1] > 0.9)
    assert all(one.sum() > 500 for one in subject), "it is seen whole, or nearly"


def test_characters_differ() -> None:
    drawn = [FIGURES[name](ICONS) for name in CHARACTERS]
    assert all((a - b).abs().mean() > 0.02 for row, a in enumerate(drawn) for b in drawn[:row])


def test_a_character_is_asked_for_by_its_trigger_word() -> None:
    assert tuple(FIGURES) == CHARACTERS
    assert prompts_of("pib")[0] == f"pib, {PROMPTS[0]}"
    assert prompts_of("neon") == list(PROMPTS)
    assert data.drawn_by("pib") == data.drawn_by("neon") == data.SETS[data.FILTERED]


def test_a_table_tells_kind_by_kind(tmp_path: Path) -> None:
    """A refined LoRA that shows twice a copy's style is worth twice as much, whatever its kind."""
    results = Results(tmp_path)
    for label in (*GROUPS["rank 32"], *GROUPS["characters, reporting"]):
        for variant, share in ((ALONE, 0.0), (NATIVE, 0.8), (COPY, 0.2), (REFINE, 0.6)):
            store(results, adapter_of(label), FINETUNE, variant, share)
    found = of_groups(results)
    assert {one.group for one in found} == {"rank 32", "characters, reporting"}
    assert not figures.figures(results, HALVES)
    rows = [row for row in of_kinds(found).splitlines() if row.startswith(f"| {FINETUNE}")]
    assert len(rows) == 2
    cells = [cell.strip() for cell in rows[0].split("|")[2:]]
    assert cells[:2] == ["rank 32", "0.80, 1.00"]
    assert cells[2] == "as a copy"
    assert [float(cell.partition(" ")[0]) for cell in cells[3:6]] == pytest.approx([0.2 / 0.8, 0.6 / 0.8, 0.4 / 0.8], abs=0.02)


def test_a_kind_is_told_once_all_of_it_is_measured(tmp_path: Path) -> None:
    """To the pruned sibling the original is not a copy, so it has to be drawn; and one of two styles is not the kind."""
    results, labels = Results(tmp_path), GROUPS["rank 32"]
    for label in labels:
        for variant, share in ((ALONE, 0.0), (NATIVE, 0.8), (COPY, 0.2), (REFINE, 0.6)):
            store(results, adapter_of(label), PRUNED, variant, share)
    assert len(of_kinds(of_groups(results)).splitlines()) == 2, "the head"
    store(results, adapter_of(labels[0]), PRUNED, BY_NAME, 0.1)
    assert len(of_kinds(of_groups(results)).splitlines()) == 2
    store(results, adapter_of(labels[1]), PRUNED, BY_NAME, 0.1)
    row = of_kinds(of_groups(results)).splitlines()[2]
    assert "| 0.12 [" in row
    assert row.endswith("| -40.0% [-40.0%, -40.0%] | -30.0% [-30.0%, -30.0%] |")


@pytest.mark.parametrize("classes", JUDGES)
def test_a_judge_tells_its_own_apart_and_knows_what_is_asked_for(classes: tuple[str, ...]) -> None:
    assert judge(classes).styles == [*PLAIN, *classes]
    assert len(choices(classes)) == 51
    assert {prompt.replace(" ", "-") for prompt in PROMPTS} < set(choices(classes))


@pytest.fixture(scope="module")
def committed() -> dict[tuple[str, str, str], figures.Figure]:
    """By target, group and variant."""
    return {(one.target, one.group, one.variant): one for one in of_groups(Results(RESULTS / FOLDER))}


def shown(committed: dict[tuple[str, str, str], figures.Figure], *of: str) -> float:
    frontier = committed[of].frontier  # type: ignore[index]
    assert frontier
    return frontier.mean


def test_of_characters(committed: dict[tuple[str, str, str], figures.Figure]) -> None:
    for group in ("characters, choosing", "characters, reporting"):
        assert 0.15 < shown(committed, FINETUNE, group, COPY) < 0.25, "about a fifth"
        assert max(shown(committed, PRUNED, group, one) for one in (BY_NAME, COPY)) < 0.08, "hardly anything"
        assert 0.6 < shown(committed, FINETUNE, group, REFINE) < 0.83, "three to four fifths"
        assert 0.38 < shown(committed, PRUNED, group, REFINE) < 0.67, "about two fifths to two thirds"
        for target in (FINETUNE, PRUNED):
            less = committed[target, group, REFINE].less_copy
            assert less
            assert less.is_above_zero
            (sure, kept), (style, content) = (committed[target, group, one].at[1.0] for one in (NATIVE, REFINE))
            assert 0.24 < kept < 0.34, "a quarter to a third"
            assert sure - 0.17 < style, "nearly as surely"
            assert content < kept
    results = Results(RESULTS / FOLDER)
    keys = [Key(target, adapter_of(label).name, ALONE) for target in (FINETUNE, PRUNED) for label in CHARACTERS]
    alone = [figures.by_prompt(results.reports[key])[1].mean() for key in keys]
    assert (round(6 * min(alone)), round(2 * max(alone))) == (1, 1), "a sixth to a half"
    styles = figures.figures(results, HALVES)
    of_styles = {one.target: one.frontier for one in styles if one.group == "reporting" and one.variant == COPY}
    for target in (FINETUNE, PRUNED):
        whole = of_styles[target]
        assert whole
        assert shown(committed, target, "characters, reporting", COPY) < whole.mean / 2, "lost more easily"


def test_of_other_kinds(committed: dict[tuple[str, str, str], figures.Figure]) -> None:
    usual, large, locon = (
        {one: shown(committed, PRUNED, group, one) for one in (BY_NAME, COPY, REFINE)}
        for group in (USUAL, "rank 32", "rank 16, convolutions too")
    )
    of_styles = [group for group in GROUPS if group.startswith("rank") and (FINETUNE, group, REFINE) in committed]
    assert len(of_styles) > 3
    assert all(0.59 < shown(committed, FINETUNE, one, COPY) < shown(committed, FINETUNE, one, REFINE) for one in of_styles)
    gains = {one: committed[FINETUNE, one, REFINE].less_copy for one in of_styles}
    assert [one for one, less in gains.items() if less and less.is_above_zero] == [USUAL]
    assert large[BY_NAME] < usual[BY_NAME] / 2
    gains = {one: committed[PRUNED, one, REFINE].less_copy for one in of_styles}
    assert [one for one, less in gains.items() if less and less.is_above_zero] == [USUAL, "rank 16", "rank 16, UNet alone"]
    assert all(less and less.mean > 0 for less in gains.values())
    assert 0.2 < shown(committed, PRUNED, "rank 16, UNet alone", COPY) < 0.3, "about a quarter"
    assert all(abs(large[one] - usual[one]) < 0.05 for one in (COPY, REFINE)), "about as much"
    assert 0.75 < locon[COPY] < 0.85, "four fifths"
