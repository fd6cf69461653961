"""A walk through the standalone tab in a browser: choose, be told, move, come back, compare."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lorax.checkpoint import Checkpoint
from tests.ui.chromium import pick, shoot

LORA = "Lora/contrast-base"


@pytest.fixture
def chosen(page: Any) -> Any:
    """A LoRA and a target for which it finds a new place, and the verdict on it."""
    pick(page, "#lorax_adapters", LORA)
    pick(page, "#lorax_target", "pruned")
    page.wait_for_selector("#lorax_verdict :text('Pruned sibling')")
    return page


def written(models: Path) -> list[str]:
    bundled = {"contrast-base", "contrast-finetune", "contrast-pruned"}
    return sorted(path.name for path in (models / "Lora").iterdir() if path.stem not in bundled)


def actions(page: Any) -> list[str]:
    """What can be done, the recommended one in capitals."""
    shown = page.locator("#lorax_actions button:visible")
    found = [(shown.nth(i).inner_text(), shown.nth(i).get_attribute("class")) for i in range(shown.count())]
    return [name.upper() if "primary" in kind else name for name, kind in found]


def move(page: Any) -> None:
    page.click("#lorax_move")
    page.wait_for_selector("#lorax_written .lorax-done")


def test_a_lora_fills_in_its_source_and_a_verdict_comes_without_a_click(chosen: Any) -> None:
    assert chosen.input_value("#lorax_source input") == "base"
    facts = chosen.inner_text("#lorax_notes")
    assert all(fact in facts for fact in (LORA, "rank 4", "Stable Diffusion 1.x", "trained on base.safetensors"))
    chosen.wait_for_function("() => !document.querySelector('#lorax_refine')?.className.includes('hide')")
    assert actions(chosen) == ["MOVE", "Refine"]
    shoot(chosen, "verdict")
    pick(chosen, "#lorax_target", "finetune")
    chosen.wait_for_selector("#lorax_verdict :text('the original already works here')")
    chosen.wait_for_selector("#lorax_move", state="hidden")
    assert actions(chosen) == ["Refine"], "here there is no txt2img to send the original to"
    chosen.click("#lorax_options button, #lorax_options .label-wrap")
    chosen.click("#lorax_advanced button, #lorax_advanced .label-wrap")
    pick(chosen, "#lorax_method", "copy")
    chosen.wait_for_selector("#lorax_move", state="visible")
    assert "copy to the matched layer" in chosen.inner_text("#lorax_method_means")
    assert "auto" not in chosen.inner_text("#lorax_method_means"), "it says what the chosen one does, and no more"


def test_a_source_that_is_not_known_is_asked_for(page: Any, models: Path) -> None:
    save_file(load_file(models / "Lora" / "contrast-base.safetensors"), models / "Lora" / "nameless.safetensors")
    page.click("#lorax_refresh")
    pick(page, "#lorax_target", "pruned")
    pick(page, "#lorax_adapters", "Lora/nameless")
    page.wait_for_selector("#lorax_guess :text('Not known: was it trained on base?')")
    assert page.input_value("#lorax_source input") == ""
    shoot(page, "not-known")
    page.click("#lorax_confirm")
    page.wait_for_selector("#lorax_verdict :text('Pruned sibling')")
    assert page.input_value("#lorax_source input") == "base"
    assert page.is_hidden("#lorax_guess")


def test_a_source_that_disagrees_is_warned_of(chosen: Any) -> None:
    pick(chosen, "#lorax_source", "finetune")
    chosen.wait_for_selector("#lorax_verdict .lorax-warning")
    assert "says that it was trained on base, but the source is finetune" in chosen.inner_text("#lorax_verdict")


def test_the_result_is_in_view_and_there_again_after_f5_until_something_else_is_chosen(chosen: Any, models: Path) -> None:
    chosen.click("#lorax_options button, #lorax_options .label-wrap")
    chosen.fill("#lorax_subfolder input, #lorax_subfolder textarea", "moved")
    chosen.locator("#lorax_subfolder input, #lorax_subfolder textarea").blur()
    move(chosen)
    assert [path.name for path in (models / "Lora" / "moved").iterdir()] == ["contrast-base-pruned.safetensors"]
    said = chosen.inner_text("#lorax_written")
    assert all(part in said for part in ("contrast-base-pruned.safetensors", "for pruned", "by the weights (auto)", " MB"))
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
    assert written(models) == ["contrast-base-pruned.safetensors"]
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
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read of checkpoints, each layer of which takes a while."""
    reads, stored = [], Checkpoint.stored

    def slowly(self: Checkpoint, layer: str) -> Any:
        reads.append(layer)
        time.sleep(0.05)
        return stored(self, layer)

    monkeypatch.setattr(Checkpoint, "stored", slowly)
    return reads


def test_a_job_goes_on_without_its_page_and_interrupt_stops_ones_own(
    chosen: Any, browser: Any, models: Path, slow: list[str]
) -> None:
    chosen.click("#lorax_move")
    chosen.wait_for_selector("#lorax_progress :text('Moving contrast-base to pruned')")
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
    count = len(slow)
    chosen.click("#lorax_interrupt")
    chosen.wait_for_selector("#lorax_written :text('Nothing was written')")
    assert len(slow) - count < 100
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
    (models / "Lora" / "contrast-base.safetensors").rename(models / "Lora" / "brand-new.safetensors")
    chosen.click("#lorax_refresh")
    chosen.wait_for_selector("#lorax_adapters .token", state="detached")
    pick(chosen, "#lorax_adapters", "Lora/brand-new")
    assert chosen.input_value("#lorax_target input") == "pruned"


def compare(page: Any, *, strengths: str = "1", pictures: int = 4) -> None:
    page.fill("#lorax_prompt textarea", "guitar")
    page.fill("#lorax_compare_strengths input, #lorax_compare_strengths textarea", strengths)
    page.fill("#lorax_compare_steps input[type=number]", "2")
    page.locator("#lorax_compare_steps input[type=number]").blur()
    page.wait_for_selector(f"#lorax_compare_told :text('{pictures} of at most 36 pictures')")
    page.click("#lorax_compare")
    if find_spec("diffusers"):
        page.wait_for_selector(f"#lorax_gallery .thumbnail-item:nth-child({pictures}) img")


def test_compare_draws_four_pictures(chosen: Any) -> None:
    move(chosen)
    compare(chosen)
    if find_spec("diffusers") is None:
        chosen.wait_for_selector("#lorax_status .lorax-error")
        assert "Pictures need diffusers" in chosen.inner_text("#lorax_status")
        return
    assert chosen.locator("#lorax_gallery .thumbnail-item img").count() == 4
    for caption in ("base with the LoRA", "pruned alone", "with a plain copy", "with the moved LoRA"):
        assert caption in chosen.inner_text("#lorax_gallery")
    shoot(chosen, "compare")


@pytest.mark.skipif(find_spec("diffusers") is None, reason="draws")
def test_a_picture_of_an_earlier_transfer_becomes_its_preview_and_its_strength_the_cards(chosen: Any, models: Path) -> None:
    move(chosen)
    chosen.reload()
    chosen.wait_for_selector("#lorax_written .lorax-done")
    chosen.wait_for_selector("#lorax_which .token:has-text('contrast-base-pruned')")
    compare(chosen, strengths=".4 .6 .8 1", pictures=7)
    lefts = "[...document.querySelectorAll('#lorax_gallery .thumbnail-item')].map((one) => one.getBoundingClientRect().left)"
    left = chosen.evaluate(lefts)
    assert left[:4] == sorted(set(left))
    assert left[4:] == left[:3]
    chosen.locator("#lorax_gallery .thumbnail-item").nth(2).click()
    chosen.wait_for_selector("#lorax_picture_about :text('pruned with the moved LoRA at 0.8')")
    shoot(chosen, "compare-strengths")
    chosen.click("#lorax_use_strength:has-text('(0.8)')")
    chosen.wait_for_selector("#lorax_picture_about .lorax-done")
    assert json.loads((models / "Lora" / "contrast-base-pruned.json").read_text("utf-8"))["preferred weight"] == 0.8
    assert chosen.is_hidden("#lorax_replace_preview")
    preview = models / "Lora" / "contrast-base-pruned.preview.png"
    chosen.click("#lorax_save_preview")
    chosen.wait_for_selector("#lorax_picture_about :text('Saved as preview')")
    saved = preview.read_bytes()
    chosen.click("#lorax_draw_preview")
    chosen.wait_for_selector("#lorax_replace_preview")
    assert preview.read_bytes() == saved
    chosen.click("#lorax_replace_preview")
    chosen.wait_for_selector("#lorax_picture_about :text('Saved as preview')")
    assert preview.read_bytes() != saved


def test_what_txt2img_has_is_read_whether_its_samplers_are_a_list_or_buttons(page: Any) -> None:
    fields = (
        "<div id='txt2img_prompt'><textarea>cat</textarea></div><div id='txt2img_neg_prompt'><textarea>dog</textarea></div>"
        "<div id='txt2img_seed'><input type='number' value='-1'></div>"
        "<div id='txt2img_steps'><input type='number' value='12'><input type='range' value='12'></div>"
        "<div id='txt2img_cfg_scale'><input type='number' value='3.5'></div>"
        "<div id='txt2img_width'><input type='number' value='64'></div>"
    )
    kinds = {
        "<div id='txt2img_sampling'><input value='DDIM'></div>": "DDIM",
        "<div id='txt2img_sampling'><input type='radio' value='a'><input type='radio' value='Euler' checked></div>": "Euler",
    }
    for html, sampler in kinds.items():
        read = """([html, given]) => {
            document.body.insertAdjacentHTML("beforeend", `<div id="fake">${html}</div>`);
            const found = lorax.fromTxt2img(given);
            document.querySelector("#fake").remove();
            return found;
        }"""
        given = ["", "", "7", 20, "", "Karras", 7, 512, 768]
        assert page.evaluate(read, [fields + html, given]) == ["cat", "dog", "-1", 12, sampler, "Karras", 3.5, 64, 768]


OUTSIDE = """() => [...document.querySelectorAll("#lorax_heatmap img, #lorax_gallery .caption-label")].filter((part) => {
    const [inner, outer] = [part, part.closest(".thumbnail-item, #lorax_heatmap")].map((one) => one.getBoundingClientRect());
    return inner.left < outer.left || inner.right > outer.right || part.scrollWidth > part.clientWidth + 1;
}).map((part) => part.outerHTML.slice(0, 200))"""


def test_nothing_sticks_out(chosen: Any) -> None:
    chosen.click("#lorax_options button, #lorax_options .label-wrap")
    chosen.click("#lorax_advanced button, #lorax_advanced .label-wrap")
    chosen.click("#lorax_details button, #lorax_details .label-wrap")
    chosen.click("#lorax_analyse")
    chosen.wait_for_selector("#lorax_heatmap img")
    move(chosen)
    if find_spec("diffusers"):
        compare(chosen)
    left = "document.querySelector('#lorax_written').getBoundingClientRect().left"
    for theme in ("light", "dark"):
        chosen.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        for width in (1400, 800):
            chosen.set_viewport_size({"width": width, "height": 900})
            assert chosen.evaluate("document.documentElement.scrollWidth <= innerWidth"), (theme, width)
            assert chosen.evaluate(OUTSIDE) == [], (theme, width)
            assert (chosen.evaluate(left) > 400) == (width == 1400), "two columns, and one where there is no room"
            shoot(chosen, f"all-{theme}-{width}")
