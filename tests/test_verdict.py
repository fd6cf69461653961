"""Verdicts agree with what a transfer by ``auto`` then does, come cheaply, and are kept."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.writing import save_lorax
from lorax.catalog import ListedFile, Sure, facts
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.cli import main
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import Do, Kind, Report, Verdict, plan, run
from lorax.transfer.forecast import measured
from lorax.transfer.verdict_words import words
from lorax.transfer.wording import FAINT
from lorax.workflow import Verdicts, verdicts
from tests import builders, structure
from tests.lab_models import LORA, committed
from tests.origins import origin
from tests.samples import Files, along, arguments, write

JARGON = re.compile(r"squared norm|energy|unmatched|stranger|overlap|delta|similarity", re.IGNORECASE)


def listed(path: Path) -> ListedFile:
    return ListedFile(path.stem, path)


def judged(lora: Path, source: Path, target: Path, by: Verdicts | None = None) -> Verdict:
    """The verdict, whose words must be an artist's."""
    found = (by or Verdicts()).of(listed(lora), listed(source), listed(target))
    assert not JARGON.search(words(found))
    return found


def by_auto(lora: Path, source: Path, target: Path) -> Report:
    return run(plan(open_adapter(lora), open_checkpoint(source), open_checkpoint(target), Options())).report


def does(verdict: Verdict) -> list[Do]:
    return [action.do for action in verdict.actions]


@pytest.mark.parametrize(
    ("source", "target", "kind", "can"),
    [
        ("base", "finetune", Kind.WORKS, [Do.USE_ORIGINAL, Do.REFINE]),
        ("pruned", "finetune", Kind.GAINS, [Do.MOVE, Do.REFINE]),
        ("base", "pruned", Kind.GAINS, [Do.MOVE, Do.REFINE]),
        ("base", "scratch", Kind.UNRELATED, [Do.REFINE, Do.BRIDGE]),
        ("base", "xl", Kind.CROSSED, [Do.REFINE, Do.BRIDGE]),
        ("xl", "xl-pruned", Kind.WORKS, [Do.USE_ORIGINAL, Do.REFINE]),
    ],
)
def test_the_labs_models(models: Path, source: str, target: str, kind: Kind, can: list[Do]) -> None:
    pytest.importorskip("diffusers")
    bases = [models / f"{name}.safetensors" for name in (source, target)]
    lora = committed(f"contrast-r4-{source}")
    found, moved = judged(lora, *bases), by_auto(lora, *bases)
    assert (found.kind, does(found)) == (kind, can)
    assert found.moved == sum(record.is_transferred for record in moved.records)
    assert (moved.declined is not None) == (kind in (Kind.UNRELATED, Kind.CROSSED))
    assert moved.draws_as_original == (kind is Kind.WORKS)
    assert found.overlap == pytest.approx(moved.overlap, abs=0.1)
    assert all(action.seconds > 5 and action.bytes > 1e8 for action in found.actions if action.do in (Do.REFINE, Do.BRIDGE))


@pytest.mark.parametrize(("c", "strength"), [(0.5, 0.5), (0.25, 0.75), (0.02, 1.0)])
def test_the_strength_at_which_the_original_works(files: Files, tmp_path: Path, c: float, strength: float) -> None:
    target = along(files, tmp_path / "along.safetensors", c)
    found, moved = judged(files.lora, files.base, target), by_auto(files.lora, files.base, target)
    assert (found.kind, found.layers, found.moved) == (Kind.WORKS, len(files.deltas), len(files.deltas))
    assert found.strength == pytest.approx(strength, abs=0.02) == pytest.approx(moved.strength, abs=0.02)
    assert (f"Use it at about {strength:.2f}" in words(found)) == (strength < 1)
    assert ("It may draw this style without the LoRA" in words(found)) == (strength == 0.5)


def test_what_a_checkpoint_has_already_needs_no_lora(files: Files, tmp_path: Path) -> None:
    found = judged(files.lora, files.base, along(files, tmp_path / "merged.safetensors", 1.0))
    assert (found.kind, found.actions) == (Kind.PRESENT, ())
    assert judged(files.lora, files.base, files.base).kind is Kind.SAME


def test_a_lora_that_would_be_projected_changes(files: Files, tmp_path: Path) -> None:
    """It lies in the directions that matter most in the target."""
    inside = builders.deltas(builders.SOME, rank=1)
    target = open_checkpoint(files.target)
    for delta in inside:
        U, _, Vh = torch.linalg.svd(target.weight(delta.layer).double(), full_matrices=False)
        delta.up[:], delta.down[:] = U[:, :1].reshape(delta.up.shape).float(), Vh[:1].reshape(delta.down.shape).float()
    lora = builders.save_lora(tmp_path / "inside.safetensors", inside)
    found, moved = judged(lora, files.base, files.target), by_auto(lora, files.base, files.target)
    assert (found.kind, found.changed) == (Kind.CHANGES, len(inside))
    assert not moved.draws_as_original
    assert does(found)[:2] == [Do.USE_ORIGINAL, Do.MOVE]


def test_the_text_encoder_judges_what_changes_it_alone(files: Files, tmp_path: Path) -> None:
    """Unrelated checkpoints may share it."""
    text = {key: value for key, value in files.base_state.items() if key.startswith(builders.TE)}
    target = builders.save(builders.base(seed=77) | text, tmp_path / "stranger.safetensors")
    layers = [p.diffusers.removesuffix(".weight") for p in structure.TINY.text() if p.is_layer]
    alone = builders.save_lora(tmp_path / "alone.safetensors", builders.deltas(layers))
    by = Verdicts()
    assert judged(files.lora, files.base, target, by).kind is Kind.UNRELATED
    assert judged(alone, files.base, target, by).kind is Kind.WORKS


def test_files_that_cannot_be_moved_have_verdicts_too(files: Files, models: Path, tmp_path: Path) -> None:
    flux = tmp_path / "flux.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(2, 2)}, flux)
    foreign = tmp_path / "foreign.safetensors"
    name = "lora_unet_double_blocks_0_img_attn_proj"
    save_file({f"{name}.lora_down.weight": torch.ones(2, 2), f"{name}.lora_up.weight": torch.ones(2, 2)}, foreign)
    itself = tmp_path / "itself.safetensors"
    base = open_checkpoint(files.base)
    save_lorax(plan(open_adapter(files.lora), base, base, Options("lorax", rank="50%", threshold=0.0)), itself)
    wide = builders.save(builders.base(3, structure.WIDER), tmp_path / "wide.safetensors")
    cases = [
        (files.lora, files.base, flux, Kind.OTHER_ARCHITECTURE, "because flux is FLUX"),
        (foreign, files.base, files.target, Kind.OTHER_ARCHITECTURE, "because it is for FLUX, Chroma or Hunyuan Video."),
        (files.lora, wide, files.target, Kind.WRONG_SOURCE, "cannot have been trained on wide: its parts do not fit that one."),
        (
            files.lora,
            models / "xl.safetensors",
            files.target,
            Kind.WRONG_SOURCE,
            "trained on xl: it is for Stable Diffusion 1.x. Choose",
        ),
        (
            write(tmp_path / "bad.safetensors", b"bad"),
            files.base,
            files.target,
            Kind.UNREADABLE,
            "bad.safetensors is damaged or incomplete. D",
        ),
        (tmp_path / "none.safetensors", files.base, files.target, Kind.UNREADABLE, "no such file"),
        (files.lora, files.base, tmp_path / "none.safetensors", Kind.UNREADABLE, "no such file"),
        (itself, files.base, files.target, Kind.FITS_ITSELF, "fits itself"),
        (itself, files.base, files.stranger, Kind.UNRELATED, "Move cannot help"),
    ]
    for lora, source, target, kind, said in cases:
        found = judged(lora, source, target)
        assert (found.kind, said in words(found)) == (kind, True), words(found)


def test_a_damaged_layer_that_only_the_overlap_reads_is_named(files: Files, tmp_path: Path) -> None:
    target, damaged = load_file(files.target), tmp_path / "damaged.safetensors"
    layer = f"{builders.UNET}output_blocks.11.1.transformer_blocks.0.ff.net.2.weight"
    target[layer][0, 0] = torch.nan
    save_file(target, damaged)
    found = judged(files.lora, files.base, damaged)
    assert (found.kind, f"{layer} holds NaN or infinite values" in found.reason) == (Kind.UNREADABLE, True)


def test_what_cannot_run_is_not_offered(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = models / "base.safetensors", models / "scratch.safetensors"
    monkeypatch.setattr(verdicts.importlib.util, "find_spec", lambda name: None)
    found = judged(LORA, *bases)
    assert (found.kind, found.actions) == (Kind.UNRELATED, ())
    assert words(found).endswith("Refine and Bridge could, but they cannot run here: diffusers is not installed here.")


def test_the_words_say_what_was_measured(models: Path) -> None:
    pytest.importorskip("diffusers")
    stranger = judged(LORA, models / "base.safetensors", models / "scratch.safetensors")
    said = words(stranger)
    for one in measured("strangers").values():
        assert f") showed {5 * round(20 * one.low)} to {5 * round(20 * one.high)} % of a style" in said
    # The machine's speed is measured, so that a busy one is told to take longer.
    takes = r"(about [\w. ]+|less than a minute)"
    assert re.match(rf"Not related: Move cannot help\. In our tests, with small models, Refine \({takes}, [\d.]+ GB of ", said)
    assert said.endswith(" and costs subjects above that. The times hold if nothing else runs.")
    on_card = tuple(dataclasses.replace(action, device="cuda") for action in stranger.actions)
    assert words(dataclasses.replace(stranger, actions=on_card)).count("GB of the graphics card's memory") == len(on_card)
    crossed = judged(LORA, models / "base.safetensors", models / "xl.safetensors")
    assert f" costs subjects above that. {FAINT} The times" in words(crossed)
    told = rf" Refine takes {takes} and [\d.]+ GB of memory, if nothing else runs. In our tests, with small models, "
    for target in ("finetune", "pruned"):
        related = words(judged(LORA, models / "base.safetensors", models / f"{target}.safetensors"))
        assert re.search(rf"{told}it showed more of the style than the original, on average\.$", related)


def test_a_moved_copy_is_named_as_one(files: Files, tmp_path: Path) -> None:
    """It is right on its own target; for another one, its original is the better start."""
    here, there = tmp_path / "style-target.safetensors", listed(files.pruned)
    assert main(["transfer", *arguments(files, lora=files.lora), "--output", str(here), "--method", "copy"]) == 0
    bases = [listed(path) for path in (files.base, files.target, files.pruned)]
    assert f"made from {files.lora.stem} for target" in str(facts(here))
    by = Verdicts()
    (own,) = by.of_all([listed(here)], bases[1], bases=bases)
    assert (own.kind, does(own)) == (Kind.MADE, [Do.USE_ORIGINAL])
    assert words(own) == f"It was made for this checkpoint, from {files.lora.stem}: use it as it is."
    (on,) = by.of_all([listed(here)], there, bases=bases)
    assert on.kind is Kind.GAINS
    assert words(on).endswith(f" It is a moved copy of {files.lora.stem}: better move that one itself, if you have it.")
    (lost,) = by.of_all([listed(here)], there, bases=[bases[0], there])
    assert words(lost).startswith("It was made for target.safetensors ")
    (original,) = by.of_all([listed(files.lora)], there, bases[1])
    assert "moved copy" not in words(original), "though both are built alike"


# --- what is kept ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers of bases that were read."""
    stored, found = Checkpoint.stored, []
    monkeypatch.setattr(Checkpoint, "stored", lambda base, layer: found.append(layer) or stored(base, layer))
    return found


def test_two_checkpoints_are_judged_once(models: Path, tmp_path: Path, reads: list[str]) -> None:
    """Also for the next start; of the next LoRA on them only what tells how much of it is there already is read."""
    bases = models / "base.safetensors", models / "pruned.safetensors"
    first, second = (committed(f"{style}-r4-base") for style in ("contrast", "blobs"))
    found = judged(first, *bases, by := Verdicts(Cache(tmp_path, 1 << 30, 0)))
    assert len(reads) > 500  # the pairs are told by weights
    reads.clear()
    later = Verdicts(Cache(tmp_path, 1 << 30, 0))
    assert judged(first, *bases, by) == judged(first, *bases, later) == found
    assert reads == []
    new = judged(second, *bases, by)
    assert 0 < len(reads) <= 2 * 96
    assert new == judged(second, *bases)
    assert len(list(tmp_path.iterdir())) == 1  # all of it is one entry


@pytest.mark.parametrize("damage", [b"", b"no entry", None])
def test_a_damaged_entry_is_found_again(files: Files, tmp_path: Path, damage: bytes | None) -> None:
    found = judged(files.lora, files.base, files.target, Verdicts(Cache(tmp_path, 1 << 30, 0)))
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:-20] if damage is None else damage)
    assert judged(files.lora, files.base, files.target, Verdicts(Cache(tmp_path, 1 << 30, 0))) == found


def test_a_file_that_changes_is_judged_anew(files: Files, tmp_path: Path) -> None:
    by, target = Verdicts(Cache(tmp_path / "cache", 1 << 30, 0)), builders.save(files.target_state, tmp_path / "mine.safetensors")
    lora = builders.save_lora(tmp_path / "style.safetensors", files.deltas)
    assert judged(lora, files.base, target, by).layers == len(files.deltas)
    builders.save_lora(lora, files.deltas[:5])
    assert judged(lora, files.base, target, by).layers == 5
    builders.save(builders.base(seed=77), target)
    assert judged(lora, files.base, target, by).kind is Kind.UNRELATED


# --- many, each with its own source ------------------------------------------------------------------------------------------


def test_many_loras_each_from_the_source_that_it_names(files: Files, tmp_path: Path) -> None:
    def lora(name: str, **metadata: str) -> Path:
        return builders.save_lora(tmp_path / f"{name}.safetensors", files.deltas, metadata=metadata)

    loras = [
        lora("named", ss_sd_model_name="base.safetensors"),
        write(tmp_path / "bad.safetensors", b"bad"),
        lora("here", ss_sd_model_name="target.safetensors"),
        lora("elsewhere", ss_sd_model_name="far.safetensors", ss_new_sd_model_hash="ab" * 32),
        lora("silent"),
        lora("strange", ss_sd_model_name="stranger.safetensors"),
    ]
    bases = [listed(path) for path in (files.base, files.target, files.stranger)]
    done: list[int] = []
    found = Verdicts().of_all(
        list(map(listed, loras)), bases[1], bases=bases, progress=lambda number, total, name: done.append(number)
    )
    assert done == list(range(len(loras)))
    kinds = [Kind.WORKS, Kind.UNREADABLE, Kind.SAME, Kind.SOURCE_MISSING, Kind.SOURCE_UNKNOWN, Kind.UNRELATED]
    assert [one.kind for one in found] == kinds
    assert words(found[3]).startswith(f"It was trained on far.safetensors {'ab' * 32}, which is not on this disk.")
    assert words(found[4]).endswith("Is it base, target or stranger?")


def test_how_sure_the_source_is(files: Files, tmp_path: Path) -> None:
    lora = builders.save_lora(tmp_path / "style.safetensors", files.deltas)
    usual = listed(builders.save(files.base_state, tmp_path / "v1-5-pruned.safetensors"))
    bases = [listed(files.base), usual]
    guess = origin(lora, bases)
    assert (guess.sure, guess.base, guess.could_be) == (Sure.GUESS, usual, (usual, bases[0]))  # the family alone: the usual one
    assert origin(lora, []).sure is Sure.UNKNOWN
    lora.with_suffix(".civitai.info").write_text(json.dumps({"baseModel": "SD 1.5"}))
    assert origin(lora, bases[::-1]).base == usual
    save_file(load_file(lora), lora, {"ss_sd_model_name": "base.ckpt"})
    assert (origin(lora, bases).sure, origin(lora, bases).base) == (Sure.FOUND, bases[0])
    missing = origin(lora, [usual])
    assert (missing.sure, missing.base, missing.name) == (Sure.MISSING, None, "base.ckpt")
    assert origin(write(tmp_path / "bad.safetensors", b"bad"), bases).sure is Sure.UNKNOWN


# --- the report --------------------------------------------------------------------------------------------------------------


def first_lines(files: Files, targets: Iterable[Path], out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    found = []
    for target in targets:
        assert main(["transfer", *arguments(files, target=target), "--output", str(out / f"{target.stem}.safetensors")]) == 0
        found.append(capsys.readouterr().out.splitlines()[0])
    return found


def test_a_transfer_says_first_that_a_copy_gains_nothing(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = along(files, tmp_path / "half.safetensors", 0.5)
    copy, weaker, pruned = first_lines(files, (files.target, half, files.pruned), out, capsys)
    assert copy == "Moving gains nothing here: the original LoRA draws the same on the target. Use that one."
    assert re.match(r"Moving gains nothing here: the original LoRA, used at 0\.[45]\d, draws", weaker)
    assert "layers moved" in pruned
