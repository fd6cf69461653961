"""The lab's summary, findings and comparison, on stored losses whose recoveries are known."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab import report
from lab.__main__ import parser
from lab.paths import DOCS, RESULTS
from lab.quotes import END, begin, quote, quoted
from lab.report import behaviour, checks, methods, page, plots, prose, tables
from lab.report.cells import Cells
from lab.report.claims import Verdict, verdict
from lab.report.records import records, show
from lab.report.rerun import differences, distances
from lab.results import ALONE, NATIVE, ORDINARY, STYLE, Key, Results
from lab.stats import Interval
from lab.sweep import full
from lab.variants import STRENGTHS
from lab.zoo import CONCEPT, SCRATCH, STYLES, are_related
from lorax.demo.bundle import BASE, FINETUNE

ICONS, SEEDS = 12, 5
# Of a move at strength 1, between relatives; what is not here recovers 0.1, and between strangers all do harm but auto.
RECOVERY = {"copy by name": 0.3, "copy": 0.5, "auto": 0.5, "lorax": 0.52, "prolora": 0.8, "prolora-cross": 0.2, "lorax 10%": 0.9}
BEST = 0.75  # the strength at which a move recovers 0.1 more


def store(folder: Path, recovery: dict[str, float], *, targets: tuple[str, ...] = (FINETUNE, SCRATCH)) -> Results:
    """What the sweep measures from the base at the ranks 4 and 16. Noise of the icons hides differences below about 0.03."""
    results, generator = Results(folder), torch.Generator().manual_seed(0)
    tasks = [task for task in dict.fromkeys(full()) if task[0] == BASE and task[1] in targets and task[2].rank < 64]
    for target, adapter in dict.fromkeys((task[1], task[2]) for task in tasks):
        alone = 1 + 0.2 * torch.rand(ICONS, SEEDS, generator=generator)
        for on, gain in ((STYLE, 0.5), (ORDINARY, -0.02)):
            results.add_losses(Key(target, adapter.name, ALONE, on=on), alone)
            for strength in STRENGTHS if on == STYLE else (1.0,):
                results.add_losses(Key(target, adapter.name, NATIVE, strength=strength, on=on), alone - gain * strength)
        for variant in (task[3] for task in tasks if task[1:3] == (target, adapter)):
            name = variant.name
            worth = recovery.get(name, 0.1) if are_related(BASE, target) else (0.0 if name == "auto" else -0.3)
            noise = (0.0 if name in ("copy", "auto") else 0.3) * torch.rand(ICONS, 1, generator=generator)
            for strength in variant.strengths:
                moved = alone - 0.5 * (worth + 0.1 * (strength == BEST) + noise - noise.mean())
                results.add_losses(Key(target, adapter.name, name, BASE, strength), moved)
            results.add_losses(Key(target, adapter.name, name, BASE, on=ORDINARY), 1.1 * alone)
            facts = {"coverage": 1.0, "declined": name == "auto" and target == SCRATCH, "similarity": 0.9, "kept": 0.7}
            results.add_report(Key(target, adapter.name, name, BASE), facts)
    for target in targets:
        results.add_minutes(target, 90)
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    store(folder, RECOVERY)
    return folder


@pytest.fixture(scope="module")
def cells(folder: Path) -> Cells:
    return Cells(Results(folder))


@pytest.fixture(scope="module")
def found(cells: Cells) -> list[dict[str, Any]]:
    return records(cells)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Cells]:
    def make(**recovery: float) -> Cells:
        store(tmp_path, RECOVERY | recovery)
        return Cells(Results(tmp_path))

    return make


def test_the_summary_has_the_known_recoveries(found: list[dict[str, Any]]) -> None:
    one = {(r["target"], r["variant"], r["style"], r["rank"], r["at"]): r for r in found}
    assert len(one) == len(found)
    moved = one[FINETUNE, "prolora", "blobs", 4, "1"]
    assert moved["recovery"] == pytest.approx(0.8, abs=1e-3)
    assert moved["recovery_low"] < 0.8 < moved["recovery_high"]
    assert (moved["icons"], moved["seeds"], moved["strength"], moved["concept"]) == (ICONS, SEEDS, 1.0, False)
    assert moved["less_copy"] == pytest.approx(0.3, abs=1e-3)
    assert (moved["harm"], moved["native_harm"]) == pytest.approx((0.1, 0.018), abs=2e-3)
    best = one[FINETUNE, "prolora", "all styles", 4, "best"]
    assert (best["strength"], best["icons"], best["harm"]) == (BEST, ICONS * len(STYLES), None)
    assert best["recovery"] == pytest.approx(0.9, abs=1e-3)
    assert one[FINETUNE, "copy", CONCEPT, 4, "best"]["concept"]


def test_methods_that_run_the_models_are_told_of(tmp_path: Path) -> None:
    """Against what weights give, against the source itself, and along the steps."""
    results = store(tmp_path, RECOVERY)
    for style in STYLES:
        adapter = f"{style}-r4"
        alone, native = (results.losses[Key(FINETUNE, adapter, name)] for name in (ALONE, NATIVE))
        results.add_losses(Key(BASE, adapter, NATIVE), alone + 0.1)  # the source is worse than the target without a LoRA
        for name, worth in (("bridge", 0.2), ("refine", 0.9), ("refine to step 10", 0.7)):
            results.add_losses(Key(FINETUNE, adapter, name, BASE), alone - worth * (alone - native))
            results.add_losses(Key(FINETUNE, adapter, name, BASE, on=ORDINARY), 1.1 * alone)
    cells = Cells(Results(tmp_path))
    said = list(behaviour.sentences(cells))
    assert said[0].startswith("base to finetune: `refine` recovers 0.90 [0.90, 0.90]; more than `bridge` (0.70 [0.70, 0.70])")
    assert "predicts the style worse than the target alone: it would recover -0.20" in said[1]
    assert "compared with the native LoRA: worse: `bridge` and `refine`" in said[2]
    table = tables.by_behaviour(cells)
    assert table is not None
    assert "| base to finetune | the source itself | -0.20 [-0.20, -0.20] |" in table
    figure = plots.against_steps(cells)
    assert figure is not None
    (axes,) = figure.axes
    heights = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert heights["refine"] == pytest.approx([0.5, 0.7], abs=0.01)


def test_the_best_strength_is_one_for_all_styles(cells: Cells, tmp_path: Path) -> None:
    """One style's own best is another; the concept's has no say at all."""
    results = store(tmp_path, RECOVERY)
    for adapter in (f"{STYLES[0]}-r4", f"{CONCEPT}-r4"):
        key = Key(FINETUNE, adapter, "copy", BASE, 0.25)
        results.add_losses(key, results.losses[Key(FINETUNE, adapter, "copy", BASE, BEST)] - 0.1)
    own = {r["style"]: r["strength"] for r in records(Cells(Results(tmp_path))) if r["variant"] == "copy" and r["at"] == "best"}
    assert set(own.values()) == {BEST}


def test_the_summary_is_stable(
    folder: Path, found: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folder.glob("*.jsonl"):  # stored in another order
        (tmp_path / file.name).write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    report.print_summary(parser().parse_args(["summary", "--json", "--results", str(tmp_path)]))
    printed = json.loads(capsys.readouterr().out)
    assert printed == found
    assert [list(record) for record in printed] == [list(record) for record in found]
    assert all(value is None or isinstance(value, (str, int, float, list)) for record in printed for value in record.values())


def test_the_table_for_people_breaks_no_figure(found: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    show(found, as_json=False)
    assert re.search(r"prolora .*blobs .*0\.80 \[0\.\d\d, 0\.\d\d\]", capsys.readouterr().out)


def test_a_claim_needs_an_interval_that_excludes_zero() -> None:
    assert verdict(Interval(0.1, 0.01, 0.2)) is Verdict.MORE
    assert verdict(Interval(-0.1, -0.2, -0.01)) is Verdict.LESS
    assert verdict(Interval(0.1, -0.01, 0.2)) is Verdict.UNKNOWN
    assert verdict(Interval(0, 0, 0)) is Verdict.SAME


def test_sentences_follow_the_figures(cells: Cells) -> None:
    said = "\n".join(prose.of_pair(cells, (BASE, FINETUNE)))
    assert re.search(r"At strength 1, these recover more than a copy: `prolora` \(0\.30 \[[^]]*\]\)\.", said)
    assert re.search(r"At strength 1, these recover less than a copy: .*`prolora-cross` \(-0\.30", said)
    assert "At strength 1, no difference to a copy was measured of: `lorax`." in said
    assert "At strength 1, these are the same as a copy: `auto`." in said
    assert "A copy is best at strength 0.75 (0.60 [0.60, 0.60]): more than at strength 1 (0.10" in said
    assert re.search(r"the native LoRA changes the loss by \+1\.8%.* Compared with that, worse: `copy`, ", said)
    assert "Control, random: has an effect: 0.10" in said
    best = "\n".join(prose.best_methods(cells))
    assert "base to finetune, at strength 1: the highest mean has `prolora` (0.80 [" in best
    assert "base to finetune, with each at its best strength: the highest mean has `prolora` (0.90 [" in best
    assert "] at 0.75); every other method that was measured so recovers less." in best
    assert "base to scratch, at strength 1: no method: the best, `auto`, has no measured gain (0.00 [0.00, 0.00])." in best
    arrivals = list(prose.arrivals(cells))
    assert "Between relatives, `copy`: arrives on base to finetune." in arrivals
    assert "Between strangers, `copy`: harms on base to scratch." in arrivals
    assert "Between strangers, `auto`: nothing changes on base to scratch." in arrivals


def test_an_insignificant_lead_is_no_claim(changed: Callable[..., Cells]) -> None:
    cells = changed(prolora=0.51)
    assert "recover more than a copy:" not in "\n".join(prose.of_pair(cells, (BASE, FINETUNE)))
    assert "`prolora` against a copy: no difference measured on base to finetune and base to scratch." in list(
        prose.against_copy(cells)
    )
    best = next(prose.best_methods(cells))
    assert re.search(r"the highest mean has `lorax` .*; not told apart from it: `copy`, `auto` and `prolora`\.", best)


def test_checks_hold_or_name_what_violates_them(cells: Cells, changed: Callable[..., Cells]) -> None:
    assert all(sentence.startswith("Holds") for sentence in (checks.declines(cells), checks.moves(cells), checks.harmless(cells)))
    assert checks.not_below(cells, at_best=False).startswith("Holds")
    broken = checks.not_below(changed(auto=0.4), at_best=False)
    assert broken.startswith("**Violated**")
    assert "base to finetune, all styles, rank 4, to `copy`: -0.10" in broken


def test_the_swept_variants_are_compared_with_the_method(cells: Cells) -> None:
    said = "\n".join(prose.over_question(cells, "rank"))
    assert re.search(r"against `lorax` with its usual rank and no gate: more: 10%; less: 5%, 25%, ", said)


def test_the_findings_are_equal_when_written_again(cells: Cells, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        page.write(cells, tmp_path / name / "findings.md")
        contents.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).rglob("*.*"))})
    assert contents[0] == contents[1]
    assert {"findings.md", "ranks.svg", "kept_rank.svg", "threshold.svg", "similarity.svg", "strength.svg"} == set(contents[0])
    text = contents[0]["findings.md"].decode()
    assert "](findings/ranks.svg)" in text
    assert "3.0 hours" in text
    assert "## Forecast" not in text
    assert "## Pictures" not in text
    assert "\n\n\n" not in text


def test_forecast_and_pictures_appear_with_their_data(folder: Path, tmp_path: Path) -> None:
    points = {"predicted": [0.1, 0.5], "measured": [0.2, 0.4], "labels": [FINETUNE, SCRATCH]}
    for file in folder.glob("*.jsonl"):
        (tmp_path / file.name).write_text(file.read_text())
    forecast = {"plots": {"probe": points}, "sentences": ["It is close."], "tables": [[{"of": "copy", "error": 0.1}]]}
    (tmp_path / "forecast.json").write_text(json.dumps(forecast))
    (tmp_path / "pictures.json").write_text(json.dumps({"rows": [{"variant": "copy", "style": 0.5}], "sentences": []}))
    page.write(Cells(Results(tmp_path)), tmp_path / "findings.md")
    text = (tmp_path / "findings.md").read_text()
    assert "](findings/forecast-probe.svg)\n\n- It is close.\n\n| of | error |" in text
    assert "| copy | 0.5 |" in text


def test_what_is_not_measured_is_left_out(tmp_path: Path) -> None:
    """A sweep that has just begun: one variant of one adapter, without its ordinary captions."""
    results, alone = Results(tmp_path), torch.ones(ICONS, SEEDS)
    results.add_losses(Key(FINETUNE, "blobs-r4", ALONE), alone)
    results.add_losses(Key(FINETUNE, "blobs-r4", NATIVE), alone - 0.5)
    results.add_losses(Key(FINETUNE, "blobs-r4", "copy by name", BASE), alone - 0.1)
    cells = Cells(Results(tmp_path))
    assert [(r["style"], r["at"], r["recovery"], r["harm"]) for r in records(cells)] == [("blobs", "1", 0.2, None)]
    page.write(cells, tmp_path / "findings.md")
    assert "kept_rank.svg" not in (tmp_path / "findings.md").read_text()


def test_the_methods_page_says_what_the_results_say() -> None:
    assert quoted(DOCS / "methods.md", "report") == methods.comparison(Cells(Results(RESULTS)))


def test_a_quote_replaces_the_one_before(cells: Cells, tmp_path: Path) -> None:
    page_, text = tmp_path / "methods.md", methods.comparison(cells)
    page_.write_text(f"before\n{begin('report')}\nold\n{END}\nafter\n")
    for _ in range(2):
        quote(page_, "report", text)
    assert page_.read_text() == f"before\n{begin('report')}\n\n{text}\n\n{END}\nafter\n"
    assert "| `prolora` | 0.80 [" in text


def test_a_plot_is_small(cells: Cells, tmp_path: Path) -> None:
    figure = plots.against_strength(cells)
    assert figure
    plots.save(figure, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size < 60_000
    assert "<dc:date>" not in (tmp_path / "plot.svg").read_text()


def test_what_is_written_by_hand_has_no_figures() -> None:
    text = (Path(page.__file__).parent / page.TEMPLATE).read_text()
    by_hand = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", text, flags=re.DOTALL)
    assert not re.search(r"\d", by_hand)


def test_a_rerun_is_compared(
    cells: Cells, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", folder)

    def code(rerun: Path, *seen: str) -> int:
        with pytest.raises(SystemExit) as ended:
            report.print_comparison(argparse.Namespace(results=rerun), lambda _: (list(seen), [0.25, 0.75]))
        return ended.value.code

    store(tmp_path / "one", RECOVERY, targets=(FINETUNE,))
    assert code(tmp_path / "one") == 0
    assert "2 frontiers differ by 0.5000 on average, and by 0.750 at most." in capsys.readouterr().out
    assert code(tmp_path / "one", "It looks otherwise.") == 1
    assert "It looks otherwise." in capsys.readouterr().out
    store(tmp_path / "other", RECOVERY | {"prolora": 0.3, "lorax": 0.515})
    assert code(tmp_path / "other") == 1
    said = "\n".join(differences(cells, Cells(Results(tmp_path / "other"))))
    assert re.search(r"base to finetune, prolora, all styles at strength 1: 0\.30 .*committed 0\.80", said)
    assert "base to finetune, prolora, all styles at strength 1, against a copy: less, committed: more." in said
    assert re.search(r"base to finetune: the best method is .*committed: prolora", said)
    assert "base to finetune, lorax" not in said
    apart = distances(cells, Cells(Results(tmp_path / "other")))
    assert max(apart) == pytest.approx(0.5, abs=0.05), "prolora's"
    assert min(apart) < 0.01


def test_a_rerun_that_lacks_a_figure_differs(cells: Cells, tmp_path: Path) -> None:
    assert differences(cells, Cells(Results(tmp_path))) == ["The rerun has measured nothing."]
    results = store(tmp_path, RECOVERY)
    results.losses = {key: value for key, value in results.losses.items() if key.variant != "prolora"}
    assert "base to finetune, prolora, all styles: not measured again." in differences(cells, Cells(results))


@pytest.mark.parametrize(
    "line",
    [
        "probe --results x",
        "forecast",
        "base --steps 5 --continue",
        "loras --only contrast-r4-*",
        "sweep --results x --target xl",
        "headline --target scratch",
    ],
)
def test_every_step_has_its_options(line: str) -> None:
    assert parser().parse_args(line.split()).step == line.split()[0]
