"""LoRAs like people's: other ranks, convolutions, the UNet alone, and characters with a trigger word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab import data
from lab.characters import CHARACTERS
from lab.eye import figures
from lab.eye.figures import HALVES
from lab.eye.ideas import OF_OTHERS, VARIANTS, is_drawn
from lab.eye.kinds import GROUPS, TOLD, of_kinds
from lab.eye.looking import PROMPTS, adapter_of, prompts_of
from lab.results import ALONE, NATIVE, Results
from lab.variants import COPY
from lab.zoo import ADAPTERS, KIND_BASES, KINDS, LOOKED_AT, REPORTING, SHOWN, others
from lab.zoo import CHARACTERS as NAMES
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import REFINE
from tests.drawn import store

PLAIN = torch.ones(8, 3, 64, 64)
PLAIN[:, 0, 8:56, 8:56] = 0.2


def test_each_kind_differs_from_the_usual_lora_in_what_it_says() -> None:
    assert set(TOLD) == set(KINDS)
    for label in set(LOOKED_AT) - set(SHOWN):
        adapter, usual = adapter_of(label), adapter_of(REPORTING[0])
        assert (adapter.steps, adapter.batch) == (usual.steps, usual.batch)
        assert adapter.is_character == (label in NAMES)
        assert adapter.is_character or (adapter.rank, adapter.convolution, adapter.text) != (4, False, True)
        assert not any(adapter.packed(base) for base in adapter.bases)


def test_no_method_was_chosen_by_them() -> None:
    """Other kinds are of styles for reporting, and what is drawn with them is what the tool has anyway."""
    assert {one.icons for one in ADAPTERS.values() if one.kind} < set(REPORTING)
    drawn = {one for one in VARIANTS for label in LOOKED_AT if label not in SHOWN if is_drawn(one, PRUNED, label)}
    assert drawn == set(OF_OTHERS)


def test_what_is_specific_is_told_within_a_kind() -> None:
    assert [one.icons for one in others(adapter_of("pib"))] == ["krag", "mulu"]
    assert [one.name for one in others(adapter_of("neon-r32"))] == ["frame-r32-long"]
    assert {one.icons for one in others(adapter_of("neon"))} == set(SHOWN) - {"neon"}


@pytest.mark.parametrize("name", NAMES)
def test_a_character_stands_beside_the_subject_in_a_pose_of_its_own(name: str) -> None:
    drawn = CHARACTERS[name](PLAIN)
    assert drawn.shape == PLAIN.shape
    assert torch.equal(drawn, CHARACTERS[name](PLAIN)), "a set is the same each time"
    poses = list(CHARACTERS[name](torch.ones_like(PLAIN)))
    assert all(0.02 < (1 - pose).mean() < 0.25 for pose in poses)
    assert len({pose.numpy().tobytes() for pose in poses}) == len(poses)
    sides = {bool((1 - pose)[..., :32].sum() > (1 - pose)[..., 32:].sum()) for pose in poses}
    assert sides == {True, False}
    subject = (drawn[:, 0] < 0.3) & (drawn[:, 1] > 0.9)
    assert all(one.sum() > 500 for one in subject), "it is seen whole, or nearly"


def test_characters_differ() -> None:
    drawn = [CHARACTERS[name](PLAIN) for name in NAMES]
    assert all((a - b).abs().mean() > 0.02 for row, a in enumerate(drawn) for b in drawn[:row])


def test_a_character_is_asked_for_by_its_trigger_word() -> None:
    assert set(CHARACTERS) == set(NAMES)
    assert prompts_of("pib")[0] == f"pib, {PROMPTS[0]}"
    assert prompts_of("neon") == list(PROMPTS)
    assert data.drawn_by("pib") == data.drawn_by("neon") == data.SETS[data.FILTERED]


def test_a_table_tells_kind_by_kind(tmp_path: Path) -> None:
    """A refined LoRA that shows twice a copy's style is worth twice as much, whatever its kind."""
    results = Results(tmp_path)
    for label in (*GROUPS["rank 32"], *GROUPS["characters, reporting"]):
        for variant, share in ((ALONE, 0.0), (NATIVE, 0.8), (COPY, 0.3), (REFINE, 0.6)):
            store(results, adapter_of(label), FINETUNE, variant, share)
    found = figures.figures(results, GROUPS)
    assert {one.half for one in found} == {"rank 32", "characters, reporting"}
    assert not figures.figures(results, HALVES)
    rows = [row for row in of_kinds(found).splitlines() if row.startswith(f"| {FINETUNE}")]
    assert len(rows) == 2
    cells = [cell.strip() for cell in rows[0].split("|")[2:]]
    assert cells[:2] == ["rank 32", "0.80, 1.00"]
    assert cells[2] == "as a copy"
    assert [float(cell.partition(" ")[0]) for cell in cells[3:6]] == pytest.approx([0.3 / 0.8, 0.6 / 0.8, 0.3 / 0.8], abs=0.02)


def test_every_base_of_other_kinds_is_one_that_is_looked_at() -> None:
    assert KIND_BASES == (BASE, FINETUNE, PRUNED)
