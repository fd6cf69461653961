"""What a source shows with its own LoRA, and what a target learns from it if the work does not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab import data, zoo
from lab.bundle import runner_of
from lab.eye import at_length as module
from lab.eye import looking
from lab.eye.at_length import AT_LENGTH, at_length
from lab.eye.costs import less_usual
from lab.eye.figures import HALVES, figures
from lab.eye.looking import BOUNDS, PAIRS, PROMPTS, Looker, adapter_of
from lab.eye.sources import itself, of_sources
from lab.paths import RESULTS
from lab.pictures import generate
from lab.results import ALONE, NATIVE, ORDINARY, Key, Results
from lab.zoo import CHOOSING, NEAR, REPORTING, SCRATCH, SCRATCH_AGAIN, SCRATCH_LONG
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.methods import REFINE
from lorax.models import examples
from tests import narrow
from tests.drawn import store
from tests.lab_models import committed

STYLE = CHOOSING[0]


@pytest.fixture
def lora(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The LoRA that is moved here, as it is committed, where the lab looks for it."""
    path = committed(adapter_of(STYLE).path(BASE).stem)
    monkeypatch.setattr(zoo, "EXTRA_LORAS", path.parent)
    return path


def test_a_source_stands_beside_what_is_learned_from_it(tmp_path: Path) -> None:
    results, adapter = Results(tmp_path), adapter_of(STYLE)
    for target, shares in ((SCRATCH, {ALONE: 0.0, NATIVE: 0.8, REFINE: 0.4, AT_LENGTH: 0.6}), (BASE, {ALONE: 0.0, NATIVE: 0.6})):
        for variant, share in shares.items():
            store(results, adapter, target, variant, share)
    (row,) = of_sources(figures(results), results).splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[:3] == [BASE, SCRATCH, "choosing"]
    assert [float(cell.partition(" ")[0]) for cell in cells[3:]] == pytest.approx([0.75, 0.5, 0.75, 0.25], abs=0.02)


def test_without_pictures_of_the_source_nothing_is_said_of_it(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for variant, share in ((ALONE, 0.0), (NATIVE, 0.8), (REFINE, 0.4)):
        store(results, adapter_of(STYLE), SCRATCH, variant, share)
    (row,) = of_sources(figures(results), results).splitlines()[2:]
    assert [cell.strip() for cell in row.strip("| ").split("|")][3::2] == ["-", "-"]


def test_every_source_is_drawn_with_its_own_loras() -> None:
    assert {source for source, _ in PAIRS} <= {*BOUNDS, *(target for _, target in PAIRS)}
    assert not {target for _, target in PAIRS} & {*BOUNDS}


def test_a_source_is_seen_alone_and_with_its_lora(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout is to stay small: losses at strength 1 alone. They are those on what the LoRA draws, which needs no icons."""
    drawn, captions = generate(runner_of(BASE), lora, PROMPTS[:2])
    images = (255 * drawn.permute(0, 2, 3, 1)).byte().numpy()
    icons = data.Icons(images, captions, narrow.icons(len(captions)).subjects)
    monkeypatch.setattr(data, "load_common", lambda *_: icons)
    monkeypatch.setattr(looking, "seen", lambda *_: {"style": [], "rank": []})
    monkeypatch.setattr(looking, "STRENGTHS", (0.5, 1.0))
    results = Results(tmp_path)
    looker = Looker(BASE, results)
    looker.see_native(STYLE)
    assert [(key.variant, key.strength) for key in results.reports] == [(ALONE, 1.0), (NATIVE, 0.5), (NATIVE, 1.0)]
    assert {(key.variant, key.strength, key.on) for key in results.losses} == {
        (variant, 1.0, on) for variant in (ALONE, NATIVE) for on in ("style", ORDINARY)
    }
    alone, native = (results.losses[Key(BASE, adapter_of(STYLE).name, one)].mean() for one in (ALONE, NATIVE))
    assert native < alone


@pytest.mark.usefixtures("lora")
def test_a_target_learns_at_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of it; what they learn is repeated by a run that resumes, and the tool's own numbers are as before."""
    usual = (examples.COPIES, examples.ANSWERS)
    for name, value in {"PICTURES": 8, "COPIES": 2, "BATCH": 2, "RUNS": tmp_path}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(module.SETTINGS, "steps", 3)
    runner = runner_of(PRUNED)
    _, moved = at_length(adapter_of(STYLE), BASE, runner.base)
    learned = dict(moved.layers.items())
    assert all(dW.up.norm() > 0 and dW.rank == adapter_of(STYLE).rank for dW in learned.values())
    assert all((dW.up.shape[0], dW.down.shape[1]) == runner.base.matrix(layer) for layer, dW in learned.items())
    _, again = at_length(adapter_of(STYLE), BASE, runner.base)
    assert all(torch.equal(learned[layer].up, dW.up) for layer, dW in again.layers.items())
    assert usual == (examples.COPIES, examples.ANSWERS)


def test_what_the_page_says_of_sources_holds() -> None:
    results = Results(RESULTS / looking.FOLDER)
    shown = {(one.target, one.group, one.variant): one for one in figures(results)}

    def share(target: str, half: str) -> float:
        """What refine shows of what the source shows."""
        usual = shown[target, half, REFINE]
        source = itself(results, usual)
        assert usual.frontier
        assert source
        return usual.frontier.mean / source.mean

    assert all(share(target, half) > 0.8 for target in (NEAR, FINETUNE) for half in HALVES), "four fifths and more"
    assert 0.55 < share(PRUNED, "reporting") < 0.65, "three fifths"
    between = ((SCRATCH, "choosing"), (SCRATCH, "reporting"), (SCRATCH_LONG, "reporting"))
    assert all(0.4 < share(target, half) < 0.55 for target, half in (*between, (SCRATCH_AGAIN, "reporting"))), "about half"
    for target, half in (*between, (PRUNED, "reporting")):
        less = less_usual(shown[target, half, AT_LENGTH], {(target, REFINE): shown[target, half, REFINE]}, results)
        assert less
        assert less.mean > 0.1, "more on average"
        assert less.low < 0.01, "not for certain"
    native, at_length = (shown[PRUNED, "reporting", one] for one in (NATIVE, AT_LENGTH))
    assert at_length.frontier
    assert 0.88 < at_length.frontier.mean < 0.95, "nine tenths"
    assert abs(at_length.at[1.0][1] - native.at[1.0][1]) < 0.04, "about as many subjects"
    by_style: dict[str, list[float]] = {REFINE: [], AT_LENGTH: []}
    for one in figures(results, {style: (style,) for style in REPORTING}, [(BASE, PRUNED)]):
        if one.variant in by_style and one.frontier:
            by_style[one.variant].append(one.frontier.mean)
    assert sum(more > usual for usual, more in zip(*by_style.values(), strict=True)) == 3, "of three of the four styles"
    native, at_length = (shown[SCRATCH_LONG, "reporting", one] for one in (NATIVE, AT_LENGTH))
    assert at_length.frontier
    assert 0.7 < at_length.frontier.mean < 0.8, "three quarters"
    assert at_length.at[1.0][0] > native.at[1.0][0], "as sure"
    assert at_length.at[1.0][1] < native.at[1.0][1] - 0.05, "subjects"
    of_styles = figures(results, {style: (style,) for style in REPORTING}, [(BASE, SCRATCH_LONG)])
    nearly = [one.group for one in of_styles if one.variant == AT_LENGTH and one.frontier and one.frontier.mean > 0.85]
    assert nearly == ["stencil", "frame"], "two of the four"
