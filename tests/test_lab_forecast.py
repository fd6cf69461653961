"""The fit of the forecast, on synthetic transfers whose relation to what is known before is given."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import facts, forecast, probe
from lab.forecast import running, validation
from lab.forecast.examples import examples
from lab.forecast.sentences import Judged
from lab.report.cells import Cells
from lab.results import ALONE, NATIVE, Key, Results
from lab.variants import STRENGTHS
from lab.zoo import ALL_PAIRS, CROSSING, STYLES, are_related
from lorax.reasons import Reason, Why
from lorax.transfer import LayerRecord, Report, Status


def store(folder: Path, *, matters: bool, probed: bool = False) -> Cells:
    """Relatives recover 1.2 * coverage - 0.2, or anything at all; strangers always lose 0.1."""
    generator, results = np.random.default_rng(0), Results(folder)
    for source, target in ALL_PAIRS:
        for style in STYLES:
            adapter = f"{style}-r4"
            alone = torch.ones(4, 5)
            results.add_losses(Key(target, adapter, ALONE), alone)
            results.add_losses(Key(target, adapter, NATIVE), alone - 0.5)
            coverage = float(generator.uniform(0.5, 1))
            worth = 1.2 * coverage - 0.2 if matters else float(generator.uniform(0.2, 1))
            for variant in ("copy", "auto"):
                moved = are_related(source, target) or variant == "copy"
                recovery = worth if are_related(source, target) else (-0.1 if moved else 0.0)
                for strength in STRENGTHS:
                    here = recovery + 0.2 * (strength == 0.5)
                    results.add_losses(Key(target, adapter, variant, source, strength), alone - 0.5 * here)
                key = Key(target, adapter, variant, source)
                results.add_report(key, _facts(generator, are_related(source, target), moved, coverage))
                if probed:
                    results.add_probe(key, _probe(generator, moved))
    return Cells(Results(folder))


def _facts(generator: np.random.Generator, related: bool, moved: bool, coverage: float) -> dict[str, Any]:
    similarity = (0.9 if related else 0.02) + float(generator.uniform(0, 0.02))
    known = {"lowest": similarity - 0.02, "overlap": float(generator.uniform(0, 0.1)), "declined": not moved}
    kept = {"coverage": coverage, "kept": coverage**0.5} if moved else {"coverage": 0.0, "kept": 0.0}
    return {"similarity": similarity, **known, **kept}


def _probe(generator: np.random.Generator, moved: bool) -> dict[str, Any]:
    known = {"source_alone": 0.3, "source_adapted": 0.1, "target_alone": 0.2}
    losses = {str(strength): 0.15 if strength == 0.5 else 0.16 + float(generator.uniform(0, 0.01)) for strength in STRENGTHS}
    return known | ({"r2": 0.5, "cosine": 0.7, "target_adapted": losses} if moved else {})


def written(cells: Cells, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    forecast.write(cells, folder / "forecast.json", folder / "shipped.json")
    return json.loads((folder / "forecast.json").read_text()), json.loads((folder / "shipped.json").read_text())["weights"]


def test_what_a_report_says_of_a_transfer() -> None:
    """Of ten layers of equal norm, of which six are moved, some of them weaker."""
    moved = [(Status.TRANSFERRED, Reason(Why.COPIED), 1.0, 0.9, 0.1, 0.5), (Status.UNMATCHED, Reason(Why.NO_SUCH_NAME), 1.0, 0.8)]
    names = ("status", "reason", "norm", "similarity", "overlap", "kept")
    records = [LayerRecord(str(i), **dict(zip(names, moved[i >= 6], strict=False)), rank=4 if i < 6 else None) for i in range(10)]
    known = facts.known(Report(records, "copy"))
    assert known == pytest.approx({"coverage": 0.6, "similarity": 0.9, "lowest": 0.8, "kept": 0.5 * 0.6**0.5, "overlap": 0.1})
    rounded = {"coverage": 0.6, "similarity": 0.9, "lowest": 0.8, "kept": 0.3873, "overlap": 0.1}
    assert facts.stored(Report(records, "copy")) == rounded | {"declined": False, "rank": 4}


def test_methods_that_run_the_models_are_told_by_the_kind_of_pair(tmp_path: Path) -> None:
    results = store(tmp_path, matters=True).results
    recoveries = {("base", "finetune"): 0.2, ("base", "pruned"): 0.4, ("base", "scratch"): 0.7, CROSSING: 0.9}
    for (source, target), recovery in recoveries.items():
        for number, style in enumerate(STYLES):
            key = Key(target, f"{style}-r4", "refine", source)
            results.add_losses(key, torch.ones(4, 5) - 0.5 * (recovery + 0.01 * number))
    forecast.write(Cells(Results(tmp_path)), tmp_path / "forecast.json", tmp_path / "shipped.json")
    found = running.measured(Cells(Results(tmp_path)))
    assert set(found) == {"refine"}, "nothing is told of what was not measured"
    related = found["refine"]["relatives"]
    assert (related["pairs"], related["transfers"]) == (2, 2 * len(STYLES))
    assert [related[name] for name in ("mean", "low", "high")] == pytest.approx([0.315, 0.2, 0.43], abs=1e-3)
    assert found["refine"]["strangers"]["mean"] == pytest.approx(0.715, abs=1e-3)
    assert found["refine"]["families"]["high"] == pytest.approx(0.93, abs=1e-3)
    told = "\n".join(json.loads((tmp_path / "forecast.json").read_text())["sentences"])
    assert "`refine` between relatives: recovery is 0.32 in the mean of 8 transfers of 2 pairs, all between 0.20 and 0.43" in told


@pytest.fixture(scope="module")
def known_relation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cells, Path]:
    folder = tmp_path_factory.mktemp("results")
    return store(folder, matters=True, probed=True), folder


def judged(cells: Cells, variant: str, *, related: bool) -> Judged:
    found = forecast._judge(cells, variant, forecast.REPORT, related)
    assert found
    return found


def test_a_known_relation_is_recovered(known_relation: tuple[Cells, Path]) -> None:
    found, groups = written(*known_relation)
    relatives, strangers = groups["copy"]["related"], groups["copy"]["unrelated"]
    study = judged(known_relation[0], "copy", related=True)
    assert study.features == ("coverage",)
    assert validation.fit(study.examples, study.features).coefficients["coverage"] == pytest.approx(1.2, abs=1e-3)
    assert study.is_useful
    assert study.errors[0].mean() < 0.01 < study.less.low
    assert relatives["similarity"][1] == 1.0
    assert strangers["similarity"][1] < 0.05
    assert relatives["pairs"] + strangers["pairs"] == len(ALL_PAIRS)
    assert relatives["transfers"] == relatives["pairs"] * len(STYLES)
    points = found["plots"]["copy-by-the-report"]
    assert points["predicted"] == pytest.approx(points["measured"], abs=0.1)  # none is beyond what the fit has seen
    told = "\n".join(found["sentences"])
    assert "It is useful, and the lab alone knows it; it is made from: coverage. `analyze` and `transfer` show the range" in told
    assert "recovery is 0.7" in told.partition("The strength")[2]
    assert "The probe's less that at 1: 0.20" in told


def test_strangers_get_no_more_than_their_range(known_relation: tuple[Cells, Path]) -> None:
    """However well relatives are told from strangers, that is no skill within either."""
    found, groups = written(*known_relation)
    strangers = groups["copy"]["unrelated"]
    assert not judged(known_relation[0], "copy", related=False).is_useful
    assert [strangers[name] for name in ("mean", "low", "high")] == pytest.approx([-0.1] * 3)
    assert "`copy` between strangers: recovery is -0.10 in the mean of 24 transfers of 6 pairs" in "\n".join(found["sentences"])


def test_what_is_declined_teaches_nothing(known_relation: tuple[Cells, Path]) -> None:
    """Strangers, of which auto moves nothing, would make any forecast look good."""
    found, groups = written(*known_relation)
    assert set(groups["auto"]) == {"related"}
    assert all(example.related for example in examples(known_relation[0], "auto"))
    assert "`auto` between strangers" not in "\n".join(found["sentences"])


def test_what_is_left_out_has_no_say(known_relation: tuple[Cells, Path]) -> None:
    """In neither role, neither in the fit nor in the choice of the features."""
    measured = judged(known_relation[0], "copy", related=True).examples
    fit = validation.chosen(forecast.CANDIDATES[forecast.REPORT])
    found = validation.folds(measured)
    assert [fold.bases for fold in found] == ["base", "finetune", "pruned", "xl and xl-pruned"]
    for fold in found:
        assert not {fold.bases} & {base for one in fold.seen for base in (one.source, one.target)}
        assert len(fold.seen) + len(fold.held) == len(measured)
    wild = [dataclasses.replace(one, measured=9.0) if "base" in (one.source, one.target) else one for one in measured]
    (_, before), (_, other_before), *_ = validation.left_out(measured, fit)
    (_, after), (_, other_after), *_ = validation.left_out(wild, fit)
    assert before.tolist() == after.tolist()
    assert other_before.tolist() != other_after.tolist()


def test_a_base_that_all_touch_cannot_be_left_out(known_relation: tuple[Cells, Path]) -> None:
    strangers = judged(known_relation[0], "copy", related=False)
    assert [fold.bases for fold in validation.folds(strangers.examples)] == ["base", "finetune", "pruned"]
    assert not strangers.is_useful


def test_nearer_by_chance_is_not_useful() -> None:
    of_mean = np.full(4, 0.3)
    assert validation.is_useful(of_mean - [0.1, 0.05, 0.1, 0.2], of_mean)
    assert not validation.is_useful(of_mean - [0.1, -0.09, 0.1, -0.05], of_mean)  # nearer in the mean
    assert not validation.is_useful(of_mean[:3] - 0.1, of_mean[:3])  # of too few bases
    assert not validation.is_useful(np.array([]), np.array([]))


def test_what_tells_nothing_is_called_useless(tmp_path: Path) -> None:
    cells = store(tmp_path, matters=False)
    found, groups = written(cells, tmp_path)
    relatives, study = groups["copy"]["related"], judged(cells, "copy", related=True)
    assert not study.is_useful
    measured = [example.measured for example in study.examples]
    assert relatives["mean"] == pytest.approx(np.mean(measured))
    assert [relatives["low"], relatives["high"]] == pytest.approx(np.quantile(measured, [0.05, 0.95]).tolist(), abs=1e-3)
    assert list(found["plots"]) == ["copy-by-the-report", "auto-by-the-report"]
    assert "**It does not tell them apart**" in "\n".join(found["sentences"])


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="too few transfers"):
        written(Cells(Results(tmp_path)), tmp_path)


def test_what_the_probe_tells(known_relation: tuple[Cells, Path]) -> None:
    found = next(example.known for example in examples(known_relation[0], "copy"))
    assert 0.3 < found["gain"] < 0.4  # of 0.1 that is to be gained
    assert found["best gain"] == pytest.approx(0.5)
    assert found["supply"] == pytest.approx(np.log10(2))
    assert (found["r2"], found["cosine"], found["probed strength"]) == (0.5, 0.7, 0.5)


def test_a_change_in_the_same_direction_agrees_whatever_its_size() -> None:
    change = torch.tensor([3.0, 4.0])
    assert probe.agreement(change, change) == probe.Agreement(1.0, 1.0)
    assert probe.agreement(change, 4 * change) == probe.Agreement(-8.0, pytest.approx(1.0))
    assert probe.agreement(change, torch.tensor([-4.0, 3.0])).cosine == 0.0
    assert probe.agreement(change, torch.zeros(2)) == probe.Agreement(0.0, 0.0)
