"""A walk through the standalone tab in a browser: choose, be told, move, come back, compare."""

from __future__ import annotations

import shutil
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lorax.checkpoint import Checkpoint
from tests.ui.chromium import move, pick, shoot

LORA = "Lora/contrast-base"


def written(models: Path) -> list[str]:
    bundled = {"contrast-base", "contrast-finetune", "contrast-pruned"}
    return sorted(path.name for path in (models / "Lora").iterdir() if path.stem not in bundled)


def actions(page: Any) -> list[str]:
    """What can be done, the recommended one in capitals."""
    shown = page.locator("#lorax_actions button:visible")
    found = [(shown.nth(i).inner_text(), shown.nth(i).get_attribute("class")) for i in range(shown.count())]
    return [name.upper() if "primary" in kind else name for name, kind in found]


def test_a_lora_fills_in_its_source_and_a_verdict_comes_without_a_click(chosen: Any) -> None:
    assert chosen.input_value("#lorax_source input") == "base"
    facts = chosen.inner_text("#lorax_notes")
    assert all(fact in facts for fact in (LORA, "rank 4", "Stable Diffusion 1.x", "trained on base.safetensors"))
    more = ["Refine"] if find_spec("diffusers") else []  # which runs both checkpoints here
    assert actions(chosen) == ["MOVE", *more]
    shoot(chosen, "verdict")
    pick(chosen, "#lorax_target", "finetune")
    chosen.wait_for_selector("#lorax_verdict :text('the original already works here')")
    chosen.wait_for_selector("#lorax_move", state="hidden")
    assert actions(chosen) == more, "here there is no txt2img to send the original to"
    chosen.click("#lorax_options button, #lorax_options .label-wrap")
    chosen.click("#lorax_advanced button, #lorax_advanced .label-wrap")
    pick(chosen, "#lorax_method", "copy")
    chosen.wait_for_selector("#lorax_move", state="visible")
    assert "copy each layer to its counterpart" in chosen.inner_text("#lorax_method_means")
    assert "auto" not in chosen.inner_text("#lorax_method_means"), "it says what the chosen one does, and no more"


def test_a_source_that_is_not_known_is_asked_for(page: Any, models: Path) -> None:
    save_file(load_file(models / "Lora" / "contrast-base.safetensors"), models / "Lora" / "nameless.safetensors")
    with page.expect_response(lambda answer: "/run/predict" in answer.url):
        page.click("#lorax_refresh")
    page.reload()
    page.wait_for_selector("#lorax_notes [data-answers]", state="attached")
    page.wait_for_selector("#lorax_looking [data-look]", state="detached")  # gradio 4 loses a choice of that moment
    pick(page, "#lorax_target", "pruned")
    pick(page, "#lorax_adapters", "Lora/nameless")
    page.wait_for_selector("#lorax_guess :text('Was it trained on base?')")
    assert page.input_value("#lorax_source input") == ""
    shoot(page, "not-known")
    page.click("#lorax_confirm")
    page.wait_for_selector("#lorax_verdict :text('A slimmed-down relative')")
    assert page.input_value("#lorax_source input") == "base"
    assert page.is_hidden("#lorax_guess")


def test_a_source_that_disagrees_is_warned_of(chosen: Any) -> None:
    pick(chosen, "#lorax_source", "finetune")
    chosen.wait_for_selector("#lorax_verdict .lorax-warning")
    assert "says that it was trained on base, not on finetune" in chosen.inner_text("#lorax_verdict")


def test_the_result_is_in_view_and_there_again_after_f5_until_something_else_is_chosen(chosen: Any, models: Path) -> None:
    chosen.click("#lorax_options button, #lorax_options .label-wrap")
    chosen.fill("#lorax_subfolder input, #lorax_subfolder textarea", "moved")
    chosen.locator("#lorax_subfolder input, #lorax_subfolder textarea").blur()
    move(chosen)
    assert [path.name for path in (models / "Lora" / "moved").glob("*.safetensors")] == ["contrast-base-pruned.safetensors"]
    said = chosen.inner_text("#lorax_written")
    assert all(part in said for part in ("contrast-base-pruned.safetensors", "for pruned", "by Move,", " MB"))
    chosen.set_viewport_size({"width": 1280, "height": 900})
    assert chosen.evaluate("document.querySelector('#lorax_copy').getBoundingClientRect().bottom < innerHeight")
    shoot(chosen, "result")
    chosen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chosen.click("#lorax_copy")
    chosen.wait_for_function("async () => (await navigator.clipboard.readText()) === '<lora:contrast-base-pruned:1>'")

    second = chosen.context.new_page()  # another tab of this browser
    for page in (chosen, second):
        page.goto(chosen.url)
        page.wait_for_selector("#lorax_written :text('contrast-base-pruned.safetensors')")
        page.wait_for_function("() => document.querySelector('#lorax_tag textarea').value === '<lora:contrast-base-pruned:1>'")
        assert page.input_value("#lorax_source input") == "base"
        assert page.input_value("#lorax_target input") == "pruned"
        assert page.locator("#lorax_subfolder input, #lorax_subfolder textarea").input_value() == "moved"
    second.close()
    pick(chosen, "#lorax_target", "finetune")
    chosen.wait_for_selector("#lorax_result", state="hidden")
    assert chosen.is_hidden("#lorax_send")


def test_a_second_move_is_refused_and_what_was_written_can_be_deleted(chosen: Any, models: Path) -> None:
    move(chosen)
    assert chosen.is_hidden("#lorax_open"), "there is no desktop here"
    chosen.click("#lorax_delete")
    chosen.wait_for_selector("#lorax_deleting :text('contrast-base-pruned.safetensors')")
    chosen.click("#lorax_kept")
    chosen.wait_for_selector("#lorax_deleting", state="hidden")
    assert written(models) == ["contrast-base-pruned.json", "contrast-base-pruned.safetensors"]
    chosen.click("#lorax_move")
    chosen.wait_for_selector("#lorax_written .lorax-error")
    assert "exists already" in chosen.inner_text("#lorax_written")
    assert chosen.is_hidden("#lorax_copy"), "nothing was written, so there is nothing to use"
    (models / "Lora" / "contrast-base-pruned.safetensors").unlink()
    move(chosen)
    chosen.click("#lorax_delete")
    chosen.click("#lorax_deleted")
    chosen.wait_for_selector("#lorax_status :text('Deleted: contrast-base-pruned.safetensors')")
    assert written(models) == []
    assert chosen.is_hidden("#lorax_result")


def test_several_loras_of_several_sources_go_to_several_targets(page: Any, models: Path) -> None:
    (models / "Lora" / "contrast-base-finetune.safetensors").write_bytes(b"kept")
    page.click("#lorax_options button, #lorax_options .label-wrap")
    page.click("#lorax_skip_existing input")
    pick(page, "#lorax_adapters", LORA)
    pick(page, "#lorax_adapters", "Lora/contrast-pruned")
    pick(page, "#lorax_target", "finetune")
    pick(page, "#lorax_also", "base")
    page.click("#lorax_move")
    page.wait_for_selector("#lorax_written table tr:nth-child(5)")
    rows = [row.split("\t") for row in page.inner_text("#lorax_written table").splitlines()[1:]]
    assert [row[:3] for row in rows[0::2]] == [
        [LORA, "finetune", "existed already"],
        ["Lora/contrast-pruned", "finetune", "written"],
    ]
    assert rows[3][:3] == ["Lora/contrast-pruned", "base", "written"]
    assert {"contrast-pruned-base.safetensors", "contrast-pruned-finetune.safetensors"} <= set(written(models))
    assert "<lora:contrast-pruned-finetune:1>" in page.input_value("#lorax_tag textarea")
    shoot(page, "batch")


@pytest.fixture
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer of a checkpoint takes a while to be read by a job; verdicts are as fast as ever."""
    stored, seconds = Checkpoint.stored, getattr(request, "param", 0.05)

    def slowly(self: Checkpoint, layer: str) -> Any:
        if not threading.current_thread().name.startswith("lorax-verdicts"):
            time.sleep(seconds)
        return stored(self, layer)

    monkeypatch.setattr(Checkpoint, "stored", slowly)


def test_what_was_said_of_another_choice_goes_at_once(chosen: Any) -> None:
    """Before the server has heard of the new one."""
    chosen.route("**/run/predict*", lambda route: route.abort())  # it hears of nothing any more
    pick(chosen, "#lorax_target", "finetune")
    chosen.wait_for_function("() => getComputedStyle(document.querySelector('#lorax_actions')).visibility === 'hidden'")


def test_a_job_that_takes_long_is_asked_for_less_often_and_an_idle_page_for_nothing(chosen: Any, slow: None) -> None:
    """Each answer has gradio draw all of the WebUI anew."""
    asked, deadline = ["at first"], time.monotonic() + 60
    chosen.on("request", lambda request: asked.append(request.url))
    while asked:  # on a busy machine a question is repeated
        assert time.monotonic() < deadline, asked
        asked.clear()
        chosen.wait_for_timeout(3000)
    chosen.click("#lorax_move")
    chosen.wait_for_selector("#lorax_progress .lorax-bar")
    chosen.wait_for_timeout(11_000)
    asked.clear()
    chosen.wait_for_timeout(9000)
    assert chosen.is_visible("#lorax_interrupt"), "it is still running"
    assert 1 <= len(asked) <= 5
    chosen.click("#lorax_interrupt")
    chosen.wait_for_selector("#lorax_written :text('Stopped')")


@pytest.mark.parametrize("slow", [0.2], indirect=True)  # the job must outlive all that is done meanwhile, on a busy machine, too
def test_a_job_goes_on_without_its_page_and_interrupt_stops_ones_own(chosen: Any, browser: Any, models: Path, slow: None) -> None:
    chosen.click("#lorax_move")
    chosen.wait_for_selector("#lorax_progress :text('Moving Lora/contrast-base to pruned')")
    other = browser.new_context().new_page()  # another user, whose job waits
    other.set_default_timeout(180_000)
    other.goto(chosen.url)
    other.wait_for_selector("#lorax_notes [data-answers]", state="attached")
    pick(other, "#lorax_adapters", "Lora/contrast-finetune")
    pick(other, "#lorax_target", "pruned")
    other.click("#lorax_move")
    other.wait_for_selector("#lorax_progress :text('Waiting for its turn')")
    other.click("#lorax_interrupt")
    other.wait_for_selector("#lorax_status :text('Stopped.')")
    other.close()
    chosen.reload()
    chosen.wait_for_selector("#lorax_progress [data-running]", state="attached")
    pick(chosen, "#lorax_adapters", "Lora/contrast-finetune")  # the lists are usable
    chosen.wait_for_selector("#lorax_notes :text('contrast-finetune')")
    shoot(chosen, "running")
    chosen.click("#lorax_interrupt")
    chosen.wait_for_selector("#lorax_written :text('Nothing was written')")
    assert written(models) == []


def test_the_details_show_every_layer_and_write_nothing(chosen: Any, models: Path) -> None:
    chosen.click("#lorax_details button, #lorax_details .label-wrap")
    chosen.click("#lorax_analyse")
    chosen.wait_for_selector("#lorax_summary .lorax-summary")
    assert "layers" in chosen.inner_text("#lorax_summary")
    chosen.wait_for_selector("#lorax_heatmap img")
    chosen.wait_for_selector("#lorax_table tbody tr:nth-child(5)")
    assert written(models) == []
    # gradio has a hidden table before the one that is shown, to measure its columns.
    first = "[...document.querySelectorAll('#lorax_table table')].at(-1).querySelector('tbody td:nth-child(5)').innerText.trim()"
    before = float(chosen.evaluate(first))
    chosen.locator("#lorax_table th", has_text="Similarity").last.locator(".sort-button").click()
    chosen.wait_for_function(f"() => Number({first}) < {before}")
    shoot(chosen, "details")


def test_refreshed_lists_have_what_is_there_now(chosen: Any, models: Path) -> None:
    """Also if a new LoRA takes the place in the list that the chosen one had."""
    loras, tokens = models / "Lora", chosen.locator("#lorax_adapters .token")
    shutil.copy(loras / "contrast-finetune.safetensors", loras / "a-first.safetensors")
    chosen.click("#lorax_refresh")
    pick(chosen, "#lorax_adapters", "Lora/a-first")
    chosen.wait_for_selector("#lorax_notes :text('a-first')")
    assert [name.split()[0] for name in tokens.all_inner_texts()] == ["Lora/contrast-base", "Lora/a-first"]
    for name in ("a-first", "contrast-base"):
        (loras / f"{name}.safetensors").rename(loras / f"brand-new-{name}.safetensors")
    chosen.click("#lorax_refresh")
    chosen.wait_for_selector("#lorax_adapters .token", state="detached")
    pick(chosen, "#lorax_adapters", "Lora/brand-new-contrast-base")
    assert chosen.input_value("#lorax_target input") == "pruned"
