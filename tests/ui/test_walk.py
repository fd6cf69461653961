"""A walk through the standalone tab: choose, analyse, transfer, interrupt, compare, prompt tag, preview, strength."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lorax.checkpoint import Checkpoint
from tests.ui.chromium import pick, shoot

LORA = "Lora/contrast-base"


@pytest.fixture
def chosen(page: Any) -> Any:
    """Source by proposal, target and LoRA by hand."""
    pick(page, "#lorax_source", "finetune")
    pick(page, "#lorax_target", "finetune")
    pick(page, "#lorax_adapters", LORA)
    page.wait_for_selector("#lorax_notes .lorax-facts")
    return page


def written(models: Path) -> list[str]:
    bundled = {"contrast-base", "contrast-finetune", "contrast-pruned"}
    return sorted(path.name for path in (models / "Lora").iterdir() if path.stem not in bundled)


def test_the_source_that_a_lora_names_is_proposed(chosen: Any) -> None:
    assert chosen.input_value("#lorax_source input") == "base"
    row = chosen.inner_text("#lorax_notes .lorax-facts tr:nth-child(2)")
    assert all(fact in row for fact in (LORA, "4", "LoRA", "Stable Diffusion 1.x", "base.safetensors"))
    shoot(chosen, "choose")


def test_the_buttons_stay_where_they_are(page: Any) -> None:
    top = "document.querySelector('#lorax_transfer').getBoundingClientRect().top"
    page.evaluate(f"() => {{ window.tops = []; setInterval(() => tops.push({top}), 5) }}")
    pick(page, "#lorax_target", "finetune")
    pick(page, "#lorax_target", "pruned")
    page.wait_for_timeout(1000)
    tops = page.evaluate("tops")
    assert len(tops) > 50
    assert max(tops) - min(tops) < 10, "a click would miss them"


def test_a_source_that_disagrees_is_warned_of(chosen: Any) -> None:
    pick(chosen, "#lorax_source", "pruned")
    chosen.wait_for_selector("#lorax_notes .lorax-warning")
    assert "says that it was trained on base, but the source is pruned" in chosen.inner_text("#lorax_notes")
    shoot(chosen, "warning")


def test_analyse_shows_everything_and_writes_nothing(chosen: Any, models: Path) -> None:
    chosen.click("#lorax_analyse")
    chosen.wait_for_selector("#lorax_summary .lorax-summary")
    assert "layers transferred" in chosen.inner_text("#lorax_summary")
    assert chosen.locator("#lorax_summary abbr[title]").count() > 0
    chosen.wait_for_selector("#lorax_heatmap img")
    chosen.wait_for_selector("#lorax_table tbody tr:nth-child(5)")
    assert written(models) == []
    shoot(chosen, "analyse")


def test_the_table_of_layers_is_sorted_by_a_click(chosen: Any) -> None:
    chosen.click("#lorax_analyse")
    chosen.wait_for_selector("#lorax_table tbody tr:nth-child(5)")
    # gradio has a hidden table before the one that is shown, to measure its columns.
    first = "[...document.querySelectorAll('#lorax_table table')].at(-1).querySelector('tbody td:nth-child(5)').innerText.trim()"
    before = float(chosen.evaluate(first))
    chosen.locator("#lorax_table th", has_text="Similarity").last.locator(".sort-button").click()
    chosen.wait_for_function(f"() => Number({first}) < {before}")


def test_what_models_are_to_draw_is_asked_only_where_they_run(chosen: Any) -> None:
    chosen.click("#lorax_options button, #lorax_options .label-wrap")
    assert chosen.is_hidden("#lorax_pictures")
    pick(chosen, "#lorax_method", "refine")
    chosen.wait_for_selector("#lorax_pictures", state="visible")
    assert all(chosen.is_visible(f"#lorax_{name}") for name in ("steps", "captions", "trigger"))
    chosen.wait_for_selector("#lorax_notes :text('refine runs both checkpoints. It takes about')")
    said = chosen.inner_text("#lorax_notes")
    chosen.fill("#lorax_steps input, #lorax_steps textarea", "1000")
    chosen.locator("#lorax_steps input, #lorax_steps textarea").blur()
    chosen.wait_for_function("(said) => document.querySelector('#lorax_notes').innerText !== said", arg=said)
    shoot(chosen, "running")
    pick(chosen, "#lorax_method", "copy")
    chosen.wait_for_selector("#lorax_pictures", state="hidden")


def test_refreshed_lists_have_what_is_there_now(chosen: Any, models: Path) -> None:
    (models / "Lora" / "contrast-base.safetensors").rename(models / "Lora" / "brand-new.safetensors")
    chosen.click("#lorax_refresh")
    chosen.wait_for_selector("#lorax_adapters .token", state="detached")
    pick(chosen, "#lorax_adapters", "Lora/brand-new")
    assert chosen.input_value("#lorax_target input") == "finetune"


def test_transfer_writes_and_gives_the_prompt_tag(chosen: Any, models: Path) -> None:
    chosen.click("#lorax_transfer")
    chosen.wait_for_selector("#lorax_written .lorax-done")
    assert written(models) == ["contrast-base-finetune.safetensors"]
    assert chosen.input_value("#lorax_tag textarea") == "<lora:contrast-base-finetune:1>"
    assert "contrast-base  (rank 4" in chosen.locator("#lorax_adapters .token").text_content()  # still the chosen one
    chosen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chosen.click("#lorax_copy")
    chosen.wait_for_function("async () => (await navigator.clipboard.readText()) === '<lora:contrast-base-finetune:1>'")
    shoot(chosen, "transfer")
    chosen.click("#lorax_transfer")
    chosen.wait_for_selector("#lorax_status .lorax-error")
    assert "exists already" in chosen.inner_text("#lorax_status")


def test_interrupt_leaves_nothing_behind(chosen: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, stored = [], Checkpoint.stored

    def slow(self: Checkpoint, layer: str) -> Any:
        reads.append(layer)
        time.sleep(0.05)
        return stored(self, layer)

    monkeypatch.setattr(Checkpoint, "stored", slow)
    chosen.click("#lorax_transfer")
    while len(reads) < 6:
        chosen.wait_for_timeout(50)
    chosen.click("#lorax_interrupt")
    chosen.wait_for_selector("#lorax_status .lorax-warning")
    assert "Nothing was written" in chosen.inner_text("#lorax_status")
    assert len(reads) < 200
    assert written(models) == []


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
    chosen.click("#lorax_transfer")
    chosen.wait_for_selector("#lorax_written .lorax-done")
    compare(chosen)
    if find_spec("diffusers") is None:
        chosen.wait_for_selector("#lorax_status .lorax-error")
        assert "Pictures need diffusers" in chosen.inner_text("#lorax_status")
        return
    assert chosen.locator("#lorax_gallery .thumbnail-item img").count() == 4
    for caption in ("base with the LoRA", "finetune alone", "with a plain copy", "with the moved LoRA"):
        assert caption in chosen.inner_text("#lorax_gallery")
    shoot(chosen, "compare")


@pytest.mark.skipif(find_spec("diffusers") is None, reason="draws")
def test_a_picture_of_an_earlier_transfer_becomes_its_preview_and_its_strength_the_cards(chosen: Any, models: Path) -> None:
    chosen.click("#lorax_transfer")
    chosen.wait_for_selector("#lorax_written .lorax-done")
    chosen.reload()
    chosen.wait_for_function("() => document.querySelector('#lorax_source input')?.value")
    pick(chosen, "#lorax_which", "Lora/contrast-base-finetune")
    compare(chosen, strengths=".4 .6 .8 1", pictures=7)
    lefts = "[...document.querySelectorAll('#lorax_gallery .thumbnail-item')].map((one) => one.getBoundingClientRect().left)"
    left = chosen.evaluate(lefts)
    assert left[:4] == sorted(set(left))
    assert left[4:] == left[:3]
    chosen.locator("#lorax_gallery .thumbnail-item").nth(2).click()
    chosen.wait_for_selector("#lorax_picture_about :text('finetune with the moved LoRA at 0.8')")
    shoot(chosen, "compare-strengths")
    chosen.click("#lorax_use_strength:has-text('(0.8)')")
    chosen.wait_for_selector("#lorax_picture_about .lorax-done")
    assert json.loads((models / "Lora" / "contrast-base-finetune.json").read_text("utf-8"))["preferred weight"] == 0.8
    assert chosen.is_hidden("#lorax_replace_preview")
    preview = models / "Lora" / "contrast-base-finetune.preview.png"
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
    chosen.click("#lorax_analyse")
    chosen.wait_for_selector("#lorax_heatmap img")
    chosen.click("#lorax_transfer")
    chosen.wait_for_selector("#lorax_written .lorax-done")
    if find_spec("diffusers"):
        compare(chosen)
    for theme in ("light", "dark"):
        chosen.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        for width in (1280, 800):
            chosen.set_viewport_size({"width": width, "height": 900})
            assert chosen.evaluate("document.documentElement.scrollWidth <= innerWidth"), (theme, width)
            assert chosen.evaluate(OUTSIDE) == [], (theme, width)
            shoot(chosen, f"all-{theme}-{width}")
