"""The part Library: each LoRA with its verdict, found once somebody opens it; several are moved, and later what is missing."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.formats import open_adapter
from lorax.workflow import Overview
from tests.ui.chromium import pick, shoot
from tests.ui.test_handlers import finished, labels, values

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")
FIRST = {"library_only": "All", "library_search": "", "library_sort": "Name", "library_chosen": "[]"}


@pytest.fixture
def models(models: Path) -> Path:
    """Besides the bundled LoRAs, one whose source is not known, and some that are built like another."""
    save_file(load_file(models / "Lora" / "contrast-base.safetensors"), models / "Lora" / "silent.safetensors")
    for number in range(3):
        shutil.copy(models / "Lora" / "contrast-base.safetensors", models / "Lora" / f"more-{number}.safetensors")
    return models


@pytest.fixture
def page(handlers: Any) -> Any:
    return handlers.pages.of("1")


def shown(handlers: Any, page: Any, **changed: Any) -> dict[str, Any]:
    """What the part shows once all is found."""
    deadline, given = time.monotonic() + 120, values([], source=None) | FIRST | changed
    while "data-look" in (answer := handlers.library.look(page, "1", given))["library_status"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return dict(answer)


def rows(answer: dict[str, Any]) -> dict[str, str]:
    """What is said in each row, by the LoRA's name."""
    found = re.findall(r"<tr>.*?data-lora=\"(.*?)\".*?<b>(.*?)</b><br>(.*?)</td></tr>", answer["library_table"])
    return {name: f"{group}: {said}" for name, group, said in found}


def test_each_lora_has_its_verdict_and_what_cannot_be_moved_cannot_be_ticked(handlers: Any, page: Any) -> None:
    answer = shown(handlers, page)
    found = rows(answer)
    assert list(found) == [f"Lora/{name}" for name in ("contrast-base", "contrast-finetune", "contrast-pruned")] + [
        *(f"Lora/more-{number}" for number in range(3)),
        "Lora/silent",
    ]
    assert found["Lora/contrast-base"].startswith(
        "Gains by moving: A slimmed-down relative: most of the LoRA fits, about a third has no place"
    )
    assert found["Lora/contrast-pruned"] == "Works as it is: It was trained on this checkpoint: use it as it is."
    assert found["Lora/silent"].startswith("Source not known: Not known on which checkpoint it was trained. Is it base")
    still = re.findall(r'data-lora="([^"]*)"[^>]* disabled', answer["library_table"])
    assert still == ["Lora/contrast-pruned"], "of the silent one the source can be told"
    assert "7 LoRAs; Gains by moving: 5; Works as it is: 1; Source not known: 1" in answer["library_status"]


def test_it_is_filtered_and_searched_and_shows_a_part_at_a_time(
    handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(handlers, page)
    assert list(rows(shown(handlers, page, library_only="Source not known"))) == ["Lora/silent"]
    assert list(rows(shown(handlers, page, library_search="MORE 2"))) == ["Lora/more-2"]
    page.rows = 2
    answer = shown(handlers, page)
    assert (len(rows(answer)), answer["library_more"]["visible"]) == (2, True)
    assert "2 of 7 are shown" in answer["library_table"]
    answer = handlers.library.more(page, "", values([], source=None) | FIRST)
    assert (len(rows(answer)), answer["library_more"]["visible"]) == (7, False)


def test_a_source_that_was_said_above_holds_here(handlers: Any, page: Any) -> None:
    assert rows(shown(handlers, page))["Lora/silent"].startswith("Source not known")
    given = values(labels(handlers, "Lora/silent", "Lora/contrast-finetune"), source=None) | FIRST
    handlers.noted(page, "1", given)
    assert "data-look" in handlers.noted(page, "2", given | {"source": "base"})["library_status"], "it is looked over anew"
    found = rows(shown(handlers, page))
    assert found["Lora/silent"] == found["Lora/more-0"]
    assert found["Lora/contrast-finetune"].startswith("Gains by moving"), "what its file says counts"
    handlers.library.move(page, "", given | {"library_chosen": '["Lora/silent"]', "method": "copy"})
    assert "lorax-done" in finished(handlers, page)["written"]


def test_the_source_of_many_is_told_at_once(handlers: Any, page: Any, models: Path) -> None:
    tensors, far = load_file(models / "Lora" / "silent.safetensors"), {"ss_sd_model_name": "far.safetensors"}
    save_file(tensors, models / "Lora" / "far.safetensors", far)
    handlers.chooser.refresh()
    given = values([], source=None) | FIRST
    shown(handlers, page)
    assert json.loads(handlers.library.choose_all(page, "", given | {"library_only": "Source not known"})["library_chosen"]) == [
        "Lora/silent"
    ]
    ticked = given | {"library_chosen": '["Lora/far", "Lora/silent", "Lora/more-0"]'}
    assert "No source is chosen" in handlers.library.told(page, "", ticked)["library_status"]
    answer = handlers.library.told(page, "", ticked | {"source": "base"})
    assert (answer["library_chosen"], "data-look" in answer["library_status"]) == ("[]", True)
    found = rows(shown(handlers, page))
    assert found["Lora/silent"] == found["Lora/far"] == found["Lora/more-1"]
    assert "No LoRA is chosen whose source" in handlers.library.told(page, "", ticked | {"source": "base"})["library_status"]


def test_all_are_only_those_that_gain_unless_others_are_asked_for(handlers: Any, page: Any) -> None:
    target = {"target": "finetune"}
    shown(handlers, page, **target)
    given = values([], source=None) | FIRST | target | {"library_search": "more"}
    answer = handlers.library.choose_all(page, "", given)
    assert (answer["library_chosen"], "None of these gains by moving" in answer["library_status"]) == ("[]", True)
    answer = handlers.library.choose_all(page, "", given | {"library_only": "Works as it is"})
    assert json.loads(answer["library_chosen"]) == [f"Lora/more-{number}" for number in range(3)]
    assert "3 chosen." in answer["library_status"]


def test_a_run_that_is_stopped_goes_on_with_what_is_missing(
    handlers: Any, page: Any, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(handlers, page)
    given = values([], source=None) | FIRST | {"library_only": "Gains by moving", "method": "copy"}
    answer = handlers.library.choose_all(page, "", given)
    chosen = json.loads(answer["library_chosen"])
    assert chosen == ["Lora/contrast-base", "Lora/contrast-finetune", *(f"Lora/more-{number}" for number in range(3))]
    assert answer["library_table"].count(" checked") == 5
    handlers.library.move(page, "", given | {"library_chosen": json.dumps(chosen[:2])})  # as far as a first run came
    finished(handlers, page)
    made = models / "Lora" / "contrast-base-pruned.safetensors"
    before = made.stat().st_mtime_ns
    handlers.library.move(page, "", given | {"library_chosen": json.dumps(chosen)})
    told = finished(handlers, page)["written"]
    assert (told.count("existed already"), told.count(">written<")) == (2, 3)
    assert made.stat().st_mtime_ns == before
    answer = shown(handlers, page)
    assert all(rows(answer)[name].endswith("Moved already.") for name in chosen), "told by what is written in the files"
    assert json.loads(handlers.library.choose_all(page, "", given)["library_chosen"]) == []
    assert list(rows(shown(handlers, page, library_only="Moved already"))) == chosen


def test_a_close_look_at_some_tells_what_headers_do_not(handlers: Any, page: Any, models: Path) -> None:
    """That the checkpoint has the LoRA already."""
    merged = models / "merged.safetensors"
    source = open_checkpoint(models / "base.safetensors")
    state = load_file(models / "base.safetensors")
    for layer, delta in open_adapter(models / "Lora" / "contrast-base.safetensors").deltas_of(source).items():
        key = next(key for key in state if key.endswith(f".{layer.partition('.')[2]}.weight"))
        state[key] += (delta.scale * delta.up @ delta.down).reshape(state[key].shape).to(state[key])
    save_file(state, merged)
    shutil.copy(models / "base.yaml", models / "merged.yaml")
    handlers.chooser.refresh()
    name = "Lora/contrast-base"
    assert rows(shown(handlers, page, target="merged"))[name].startswith("Works as it is")
    given = values([], source=None) | FIRST | {"target": "merged", "library_chosen": json.dumps([name])}
    handlers.library.closely(page, "", given)
    found = rows(shown(handlers, page, target="merged"))
    assert found[name].startswith("In it already: It is in this checkpoint already")
    assert found["Lora/contrast-finetune"].startswith("Works as it is"), "which was not chosen"


def test_what_nobody_looks_at_any_more_is_given_up(handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorax.ui.shelves.PATIENCE", 0.2)
    stored, read = Checkpoint.stored, list[str]()

    def slowly(base: Checkpoint, layer: str) -> Any:
        read.append(layer)
        time.sleep(0.005)
        return stored(base, layer)

    monkeypatch.setattr(Checkpoint, "stored", slowly)
    given = values([], source=None) | FIRST
    handlers.library.look(page, "1", given)
    shelf = next(iter(handlers.library._shelves._kept.values()))
    deadline = time.monotonic() + 60
    while not shelf.is_given_up:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    monkeypatch.setattr("lorax.ui.shelves.PATIENCE", 60)
    monkeypatch.setattr(Checkpoint, "stored", stored)
    assert len(rows(shown(handlers, page))) == 7, "and begins anew with the next look"


# --- in a browser ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets for which somebody has the library looked over."""
    found: list[str] = []
    look = Overview.rows

    def counted(self: Overview, *more: Any) -> Any:
        found.append(self.target.name)
        return look(self, *more)

    monkeypatch.setattr(Overview, "rows", counted)
    return found


def test_a_walk_through_the_library(looks: list[str], server: str, browser: Any, models: Path) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(120_000)
    page.goto(server)
    page.wait_for_selector("#lorax_notes [data-answers]", state="attached")
    pick(page, "#lorax_target", "pruned")
    page.wait_for_timeout(3000)
    assert looks == [], "nobody has opened it"
    page.click("#lorax_library button.label-wrap, #lorax_library .label-wrap")
    page.wait_for_selector("#lorax_library_status :text('7 LoRAs; Gains by moving: 5')")
    assert looks == ["pruned"]
    shoot(page, "library")
    page.check("#lorax_library_table [data-lora='Lora/more-1']")
    page.fill("#lorax_library_search textarea, #lorax_library_search input", "contrast")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lorax_library_table [data-lora='Lora/more-1']", state="detached")
    page.check("#lorax_library_table [data-lora='Lora/contrast-base']")
    page.fill("#lorax_library_search textarea, #lorax_library_search input", "")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lorax_library_table [data-lora='Lora/more-1']")
    assert page.is_checked("#lorax_library_table [data-lora='Lora/more-1']"), "a choice outlasts a search"
    assert page.is_disabled("#lorax_library_table [data-lora='Lora/contrast-pruned']")
    page.click("#lorax_library_move")
    page.wait_for_selector("#lorax_written table tr:nth-child(3)")
    assert (models / "Lora" / "more-1-pruned.safetensors").is_file()
    assert (models / "Lora" / "contrast-base-pruned.safetensors").is_file()
    assert not (models / "Lora" / "more-2-pruned.safetensors").exists()
    page.wait_for_selector("#lorax_library_table :text('Moved already')")
    pick(page, "#lorax_library_only", "Moved already")
    page.wait_for_selector("#lorax_library_table [data-lora='Lora/more-2']", state="detached")
    assert page.locator("#lorax_library_table [data-lora]").count() == 2
    assert not page.is_checked("#lorax_library_table [data-lora='Lora/more-1']")
    shoot(page, "library-moved")
    page.context.close()
