"""The part Compare in a browser, and the whole of the tab, filled, at both widths and in both themes."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.ui.chromium import move, shoot


def compare(page: Any, *, strengths: str = "1", pictures: int = 4) -> None:
    page.fill("#lorax_prompt textarea", "guitar")
    page.fill("#lorax_compare_strengths input, #lorax_compare_strengths textarea", strengths)
    page.fill("#lorax_compare_steps input[type=number]", "2")
    page.locator("#lorax_compare_steps input[type=number]").blur()
    page.wait_for_selector(f"#lorax_compare_told :text('{pictures} pictures (36 at most)')")
    page.click("#lorax_compare")
    if find_spec("diffusers"):
        page.wait_for_selector(f"#lorax_gallery .thumbnail-item:nth-child({pictures}) img")


def test_compare_draws_four_pictures(chosen: Any) -> None:
    assert chosen.is_hidden("#lorax_compare"), "as long as there is nothing to compare"
    move(chosen)
    chosen.wait_for_selector("#lorax_compare:not([disabled])", state="visible")
    compare(chosen)
    if find_spec("diffusers") is None:
        chosen.wait_for_selector("#lorax_status .lorax-error")
        assert "Pictures need diffusers" in chosen.inner_text("#lorax_status")
        return
    assert chosen.locator("#lorax_gallery .thumbnail-item img").count() == 4
    for caption in ("base with the LoRA", "pruned alone", "with the LoRA as it is", "with the moved LoRA"):
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
            assert chosen.evaluate(left) > width / 3, "what can be done stands beside Options, and not below"
            shoot(chosen, f"all-{theme}-{width}")
