"""The forecast that a report shows: its words, where it is silent, and the committed model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorax.catalog import Model
from lorax.methods import BEHAVIOURAL
from lorax.transfer import forecast
from lorax.transfer.forecast import Forecast
from lorax.transfer.report import LayerRecord, Report
from lorax.ui import words
from lorax.workflow.jobs import Result

MODEL = {
    "related": {
        "intercept": 0.0,
        "coefficients": {"coverage": 0.8},
        "bounds": [-0.2, 1.0],
        "ranges": {"similarity": [0.86, 1.0], "coverage": [0.6, 1.0]},
        "residuals": [-0.2, 0.1],
    },
    "unrelated": {
        "intercept": -0.05,
        "coefficients": {},
        "bounds": [-0.2, 0.1],
        "ranges": {"similarity": [-1.0, 0.03], "coverage": [0.9, 1.0]},
        "residuals": [-0.05, 0.05],
    },
}
Fitted = Callable[..., None]


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    forecast._fitted.cache_clear()
    yield
    forecast._fitted.cache_clear()


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fitted:
    def write(**changed: Any) -> None:
        (tmp_path / "forecast.json").write_text(json.dumps({"methods": {"copy": MODEL | changed}}))
        monkeypatch.setattr(forecast, "FILE", tmp_path / "forecast.json")

    return write


def report(similarity: float = 0.9, moved: int = 10, method: str = "copy", **measured: float) -> Report:
    """Make a report of ten layers of equal norm."""
    records = [
        LayerRecord(
            str(i),
            "transferred" if i < moved else "unmatched",
            "",
            1.0,
            similarity=similarity,
            kept=1.0 if i < moved else None,
            overlap=0.0,
            **measured,  # type: ignore[arg-type]
        )
        for i in range(10)
    ]
    return Report(records, method)


def test_known() -> None:
    assert forecast.known(report(0.9, moved=6)) == {
        "coverage": pytest.approx(0.6),
        "similarity": 0.9,
        "lowest": 0.9,
        "kept": pytest.approx(0.6**0.5),
        "overlap": 0.0,
    }


def test_relatives_and_strangers(fitted: Fitted) -> None:
    fitted()
    found = forecast.forecast(report())
    assert found
    assert (found.mean, found.low, found.high, found.related, found.told) == pytest.approx((0.8, 0.6, 0.9, True, True))
    assert found.words.startswith(
        "Forecast: close relatives, expect about the original's effect (80 %; most have between 60 % and 90 %"
    )
    assert "the lab's small models" in found.words
    half = forecast.forecast(report(moved=7))
    assert half
    assert half.mean == pytest.approx(0.56)
    stranger = forecast.forecast(report(0.01))
    assert stranger
    assert not stranger.told
    assert stranger.words.startswith("Forecast: unrelated. Nine of ten such transfers")
    assert "had between -10 % and 0 % of the effect" in stranger.words


def test_without_a_finer_forecast_the_range_is_told(fitted: Fitted) -> None:
    """Nothing is said about the transfer at hand."""
    fitted(related=MODEL["related"] | {"intercept": 0.6, "coefficients": {}, "residuals": [-0.4, 0.3]})
    words = {found.words for moved in (10, 7) if (found := forecast.forecast(report(moved=moved)))}
    assert words == {
        "Forecast: close relatives. Nine of ten such transfers between the lab's small models had between 20 % and 90 % of the "
        "effect of a LoRA trained on the target; nothing known beforehand told these apart reliably. Large models can differ."
    }


def test_a_narrow_range_is_one_figure() -> None:
    assert "had about 0 % of the effect" in Forecast(0.0, -0.01, 0.01, False, False).words


@pytest.mark.parametrize(
    ("mean", "low", "high", "effect"),
    [
        (0.0, -0.1, 0.1, "nothing, or harm"),
        (0.1, 0.0, 0.2, "next to nothing"),
        (0.2, -0.1, 0.5, "little of the original's effect"),
        (0.4, 0.1, 0.7, "a part of the original's effect"),
        (0.6, 0.3, 0.9, "most of the original's effect"),
        (0.9, 0.6, 1.1, "about the original's effect"),
    ],
)
def test_words(mean: float, low: float, high: float, effect: str) -> None:
    assert f"expect {effect} (" in Forecast(mean, low, high, True, True).words


@pytest.mark.parametrize(
    "of",
    [
        report(method="lorax"),
        report(moved=0),
        report(similarity=0.5),  # between strangers and relatives
        report(similarity=0.2),
        report(moved=4),
        report(compression_error=0.3),
        Report([LayerRecord("1", "transferred", "", 1.0)], "copy"),  # shapes differ: no similarity
    ],
)
def test_nothing_is_told_of_what_was_not_measured(fitted: Fitted, of: Report) -> None:
    fitted()
    assert forecast.forecast(of) is None
    assert "Forecast" not in of.summary()
    assert of.as_json()["forecast"] is None


def test_more_alike_than_measured_is_a_close_relative(fitted: Fitted) -> None:
    fitted()
    assert forecast.forecast(report(similarity=0.999))


def test_a_group_that_was_not_measured(fitted: Fitted) -> None:
    fitted()
    stored = json.loads(forecast.FILE.read_text())
    del stored["methods"]["copy"]["related"]
    forecast.FILE.write_text(json.dumps(stored))
    assert forecast.forecast(report()) is None
    assert forecast.forecast(report(0.01))


def test_it_is_shown_once(fitted: Fitted) -> None:
    fitted()
    assert report().summary().count("Forecast") == 1
    assert report().as_json()["forecast"]["mean"] == pytest.approx(0.8)
    assert json.loads(json.dumps(report().as_json()))["forecast"]["words"] in report().summary()
    html = words.summary([Result(Model("style", Path("style")), report())])
    assert html.count("<p><abbr title=") >= 1
    assert html.count(">Forecast</abbr>: close relatives") == 1


def test_the_committed_model() -> None:
    """Read as it is shipped. Whatever it says, it says it of what it was fitted to."""
    fitted = forecast._fitted()
    stored = json.loads(forecast.FILE.read_text())["methods"]
    assert set(stored) <= {"copy", "auto"}
    if "unrelated" not in stored.get("copy", {}):
        pytest.skip("not fitted yet: run python -m lab forecast when strangers are measured")
    assert "copy" in fitted
    stranger, relative = forecast.forecast(report(0.0)), forecast.forecast(report(0.95))
    assert stranger
    assert relative
    assert stranger.mean < 0.1
    assert relative.mean > 0.4
    assert relative.low < relative.mean < relative.high


def running(kind: str = forecast.STRANGERS, method: str = "refine", moved: int = 10) -> Report:
    records = [LayerRecord(str(i), "transferred" if i < moved else "skipped", "", 1.0) for i in range(10)]
    return Report(records, method, kind=kind)


def test_of_methods_that_run_the_models_the_range_of_the_kind_is_told(fitted: Fitted) -> None:
    fitted()
    stored = json.loads(forecast.FILE.read_text())
    few = {"mean": 0.3, "low": 0.2, "high": 0.4, "pairs": 1, "transfers": 4}
    many = {"mean": 0.8, "low": 0.7, "high": 0.9, "pairs": 2, "transfers": 8}
    stored["running"] = {"bridge": {"strangers": few}, "refine": {"strangers": many, "families": few}}
    forecast.FILE.write_text(json.dumps(stored))
    told = (
        "Forecast: unrelated. 8 LoRAs moved so between 2 pairs of the lab's small models had between 70 % and 90 % of the effect "
        "of a LoRA trained on the target. Large models can differ."
    )
    assert running().summary().endswith(told)
    assert "4 LoRAs moved so between one pair" in running(forecast.CROSSED).summary()
    assert running(forecast.RELATIVES).as_json()["forecast"] is None
    assert running(moved=0).as_json()["forecast"] is None
    assert list(forecast.measured(forecast.STRANGERS)) == ["refine", "bridge"], "what was worth most comes first"
    assert list(forecast.measured(forecast.CROSSED)) == ["refine"]
    assert running(method="bridge").as_json()["forecast"]["mean"] == 0.3


def test_what_is_proposed_was_measured() -> None:
    """The shipped file names each method that runs the models, where it was measured, and by how much."""
    for kind in (forecast.STRANGERS, forecast.CROSSED):
        for method, worth in forecast.measured(kind).items():
            assert method in BEHAVIOURAL
            assert worth.low <= worth.mean <= worth.high
            assert worth.transfers >= worth.pairs >= 1
