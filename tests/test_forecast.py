"""The forecast that a report shows: its words, where there is none, and the committed figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorax.catalog import ListedFile
from lorax.methods import runs_models
from lorax.reasons import Reason, Why
from lorax.transfer import Forecast, LayerRecord, Measured, Report, Status, as_json, forecast, wording
from lorax.transfer.expected import CROSSED, RELATIVES, STRANGERS
from lorax.ui import words
from lorax.workflow import Result

COPIED, UNMATCHED, NOT_USED = Reason(Why.COPIED), Reason(Why.NO_SUCH_NAME), Reason(Why.NOT_USED)
RELATED = {"mean": 0.6, "low": 0.2, "high": 0.9, "similarity": [0.86, 1.0], "coverage": [0.6, 1.0], "pairs": 8, "transfers": 32}
UNRELATED = {
    "mean": -0.05,
    "low": -0.1,
    "high": 0.0,
    "similarity": [-1.0, 0.03],
    "coverage": [0.9, 1.0],
    "pairs": 6,
    "transfers": 24,
}
Write = Callable[..., None]


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    forecast._stored.cache_clear()
    yield
    forecast._stored.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Write figures in place of the committed ones: groups of ``copy``, and kinds of pairs by method that runs the models."""

    def write(running: dict[str, Any] | None = None, **groups: Any) -> None:
        weights = {"copy": groups or {"related": RELATED, "unrelated": UNRELATED}}
        for name, content in {"FILE": {"weights": weights}, "SEEN": {"running": running or {}}}.items():
            (tmp_path / name).write_text(json.dumps(content))
            monkeypatch.setattr(forecast, name, tmp_path / name)

    return write


def report(similarity: float = 0.9, moved: int = 10, method: str = "copy", **measured: float) -> Report:
    """Of ten layers of equal norm."""
    records = [
        LayerRecord(
            str(i),
            Status.TRANSFERRED if i < moved else Status.UNMATCHED,
            COPIED if i < moved else UNMATCHED,
            1.0,
            similarity=similarity,
            kept=1.0 if i < moved else None,
            overlap=0.0,
            **measured,  # type: ignore[arg-type]
        )
        for i in range(10)
    ]
    return Report(records, method)


def running(kind: str = STRANGERS, method: str = "refine", moved: int = 10) -> Report:
    """Of ten layers of equal norm, moved by a method that runs the models."""
    ends = [(Status.TRANSFERRED, Reason(Why.TRAINED)) if i < moved else (Status.SKIPPED, NOT_USED) for i in range(10)]
    return Report([LayerRecord(str(i), *end, 1.0) for i, end in enumerate(ends)], method, kind=kind)


def shown(of: Report) -> Report:
    """The report as a transfer gives it."""
    return dataclasses.replace(of, expected=forecast.forecast(of))


def test_relatives_and_strangers_have_the_range_of_their_group(measured: Write) -> None:
    measured()
    assert forecast.forecast(report()) == forecast.forecast(report(moved=7)) == Forecast(0.6, 0.2, 0.9, True)
    assert forecast.forecast(report(0.01)) == Forecast(-0.05, -0.1, 0.0, False)


def test_the_words_of_a_range() -> None:
    assert wording.expected_words(Forecast(0.6, 0.21, 0.88, True)) == (
        "Forecast: close relatives. Nine of ten such transfers between the lab's small models had between 20 % and 90 % of the "
        "effect of a LoRA trained on the target; nothing known beforehand told these apart reliably. Large models can differ."
    )
    stranger = wording.expected_words(Forecast(-0.05, -0.1, 0.0, False))
    assert stranger.startswith("Forecast: unrelated. Nine of ten such transfers")
    assert "had between -10 % and 0 % of the effect" in stranger


def test_a_narrow_range_is_one_figure() -> None:
    assert "had about 0 % of the effect" in wording.expected_words(Forecast(0.0, -0.01, 0.01, False))


@pytest.mark.parametrize(
    "of",
    [
        report(method="lorax"),
        report(moved=0),
        report(similarity=0.5),  # between strangers and relatives
        report(similarity=0.2),
        report(moved=4),
        report(compression_error=0.3),
        Report([LayerRecord("1", Status.TRANSFERRED, COPIED, 1.0)], "copy"),  # shapes differ: no similarity
    ],
)
def test_nothing_is_forecast_of_what_was_not_measured(measured: Write, of: Report) -> None:
    measured()
    assert forecast.forecast(of) is None
    assert "Forecast" not in wording.summary(shown(of))
    assert as_json(shown(of))["forecast"] is None


def test_more_alike_than_measured_is_a_close_relative(measured: Write) -> None:
    measured(related=RELATED | {"similarity": [0.86, 0.95]}, unrelated=UNRELATED)
    assert forecast.forecast(report(similarity=0.999))
    assert forecast.forecast(report(similarity=0.82)), "a report may lie a little outside"
    assert not forecast.forecast(report(similarity=0.80))


def test_a_group_that_was_not_measured(measured: Write) -> None:
    measured(unrelated=UNRELATED)
    assert forecast.forecast(report()) is None
    assert forecast.forecast(report(0.01))


def test_it_is_shown_once(measured: Write) -> None:
    measured()
    of = shown(report())
    assert wording.summary(of).count("Forecast") == 1
    told = json.loads(json.dumps(as_json(of)))["forecast"]
    assert (told["mean"], told["related"]) == (0.6, True)
    assert told["words"] in wording.summary(of)
    html = words.summary([Result(ListedFile("style", Path("style")), Path("style"), Path("style"), of)])
    assert html.count("Forecast: close relatives") == 1


def test_the_committed_figures() -> None:
    """Read as they are shipped."""
    stored = json.loads(forecast.FILE.read_text(encoding="utf-8"))
    assert stored["weights"].keys() <= {"copy", "auto"}
    stranger, relative = forecast.forecast(report(0.0)), forecast.forecast(report(0.95))
    assert isinstance(stranger, Forecast)
    assert isinstance(relative, Forecast)
    assert stranger.mean < 0.1
    assert relative.mean > 0.4
    assert relative.low < relative.mean < relative.high


def test_of_methods_that_run_the_models_the_range_of_the_kind_is_told(measured: Write) -> None:
    few = {"mean": 0.3, "low": 0.2, "high": 0.4, "pairs": 1, "transfers": 4}
    many = {"mean": 0.8, "low": 0.7, "high": 0.9, "pairs": 2, "transfers": 8}
    measured({"bridge": {STRANGERS: few}, "refine": {STRANGERS: many, CROSSED: few}})
    told = (
        "Forecast: unrelated. In pictures, 8 LoRAs moved so between 2 pairs of the lab's small models showed between 70 % and "
        "90 % of what a LoRA shows that was trained on the target, with as many subjects kept. Large models can "
        "differ."
    )
    assert wording.summary(shown(running())).endswith(told)
    assert "4 LoRAs moved so between one pair" in wording.summary(shown(running(CROSSED)))
    assert forecast.forecast(running(RELATIVES)) is None
    assert forecast.forecast(running(moved=0)) is None
    assert list(forecast.measured(STRANGERS)) == ["refine", "bridge"], "what was worth most comes first"
    assert list(forecast.measured(CROSSED)) == ["refine"]
    assert forecast.forecast(running(method="bridge")) == Measured(STRANGERS, **few)


def test_what_is_proposed_was_measured() -> None:
    """Of what is shipped: each method that runs the models, where it was measured, and by how much."""
    for kind in (STRANGERS, CROSSED):
        for method, worth in forecast.measured(kind).items():
            assert runs_models(method)
            assert worth.low <= worth.mean <= worth.high
            assert worth.transfers >= worth.pairs >= 1
