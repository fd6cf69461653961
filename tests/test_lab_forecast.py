"""The fit of the forecast, on synthetic transfers whose relation to what is known before is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import forecast
from lab.forecast import validation
from lab.forecast.examples import examples, probed_strength
from lab.report.cells import Cells
from lab.results import ALONE, NATIVE, Key, Results
from lab.variants import STRENGTHS
from lab.zoo import ALL_PAIRS, STYLES, XL, are_related
from lorax import probe
from lorax.forecast import Model


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
    return known | ({"r2": 0.5, "strength": 1.0, "cosine": 0.7, "target_adapted": losses} if moved else {})


def written(cells: Cells, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    forecast.write(cells, folder / "forecast.json", folder / "model.json")
    return json.loads((folder / "forecast.json").read_text()), json.loads((folder / "model.json").read_text())["methods"]


@pytest.fixture(scope="module")
def known_relation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cells, Path]:
    folder = tmp_path_factory.mktemp("results")
    return store(folder, matters=True, probed=True), folder


def test_a_known_relation_is_recovered(known_relation: tuple[Cells, Path]) -> None:
    found, models = written(*known_relation)
    copy = models["copy"]
    assert set(copy["coefficients"]) == {"related", "related*coverage"}
    assert copy["coefficients"]["related*coverage"] == pytest.approx(1.2, abs=1e-3)
    assert copy["intercept"] == pytest.approx(-0.1, abs=1e-3)
    assert copy["error"] < 0.01 < copy["error_of_mean"]
    assert copy["groups"]["related"]["ranges"]["similarity"][1] == 1.0
    assert copy["groups"]["unrelated"]["ranges"]["similarity"][1] < 0.05
    assert (copy["pairs"], copy["transfers"]) == (len(ALL_PAIRS), len(ALL_PAIRS) * len(STYLES))
    points = found["plots"]["copy-by-the-report"]
    assert points["predicted"] == pytest.approx(points["measured"], abs=0.02)
    told = "\n".join(found["sentences"])
    assert "show that of `copy`; it is made from: related, related*coverage." in told
    assert "among relatives: error 0.00" in told
    assert "recovery is 0.7" in told.partition("The strength")[2]
    assert "The probe's less that at 1: 0.20" in told


def test_what_is_left_out_has_no_say(known_relation: tuple[Cells, Path]) -> None:
    """Neither in the fit nor in the choice of the features."""
    measured = examples(known_relation[0], "copy")
    seen: list[set[str]] = []

    def fit(some: Any) -> Model:
        seen.append({example.target for example in some})
        return validation.chosen(forecast.CANDIDATES[forecast.REPORT])(some)

    before = validation.left_out(measured, fit, validation.target)
    everything = {example.target for example in measured}
    assert sorted(map(len, seen)) == [len(everything) - 1] * len(everything)
    index = next(i for i, example in enumerate(measured) if example.target == XL)
    wild = [
        example if example.target != XL else type(example)(example.source, XL, example.style, 9.0, example.known, example.cell)
        for example in measured
    ]
    assert validation.left_out(wild, fit, validation.target)[index] == before[index]
    assert validation.left_out(wild, fit, validation.source)[0] != validation.left_out(measured, fit, validation.source)[0]


def test_what_tells_nothing_is_called_useless(tmp_path: Path) -> None:
    cells = store(tmp_path, matters=False)
    found, models = written(cells, tmp_path)
    assert list(models["copy"]["coefficients"]) == ["related"]
    assert list(found["plots"]) == ["copy-by-the-report", "auto-by-the-report"]
    told = "\n".join(found["sentences"])
    assert "among relatives: error" in told
    assert "does not tell them apart" in told
    relatives = [example for example in examples(cells, "copy") if example.related]
    among = forecast.model_of(relatives, forecast.CANDIDATES[forecast.REPORT])
    assert among["error"] >= among["error_of_mean"]  # which lorax does not show
    judged = forecast.sentences.Judged("copy", forecast.REPORT, forecast.CANDIDATES[forecast.REPORT], relatives)
    assert "**It is useless**" in "\n".join(forecast.sentences.everything([judged]))


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="too few transfers"):
        written(Cells(Results(tmp_path)), tmp_path)


def test_what_the_probe_tells(known_relation: tuple[Cells, Path]) -> None:
    found = next(example.known for example in examples(known_relation[0], "copy"))
    assert 0.3 < found["gain"] < 0.4  # of 0.1 that is to be gained
    assert found["best gain"] == pytest.approx(0.5)
    assert found["supply"] == pytest.approx(np.log10(2))
    assert (found["r2"], found["cosine"], found["probed strength"]) == (0.5, 0.7, 0.5)
    stranger = next(example for example in examples(known_relation[0], "auto") if not example.related)
    assert (stranger.known["r2"], stranger.known["gain"]) == (0.0, 0.0)
    assert "probed strength" not in stranger.known


def test_a_probe_of_what_is_not_moved() -> None:
    losses: Mapping[str, Any] = {"target_adapted": {str(strength): strength for strength in STRENGTHS}}
    assert probed_strength(losses) == min(STRENGTHS)
    assert probed_strength({"target_alone": 1.0}) is None


def test_a_change_in_the_same_direction_agrees_whatever_its_size() -> None:
    change = torch.tensor([3.0, 4.0])
    assert probe.agreement(change, change) == probe.Agreement(1.0, 1.0, 1.0)
    assert probe.agreement(change, 4 * change) == probe.Agreement(-8.0, 0.25, pytest.approx(1.0))
    assert probe.agreement(change, torch.tensor([-4.0, 3.0])).cosine == 0.0
    assert probe.agreement(change, torch.zeros(2)) == probe.Agreement(0.0, 0.0, 0.0)
