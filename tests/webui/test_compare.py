"""Compare, previews, strengths and the axes of the X/Y/Z plot, in a real WebUI in a browser.

Needs ``LORAX_WEBUI_DIR``: a WebUI v1.10.1 with its ``venv``; and playwright, with its or the system's Chromium.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.ui.chromium import pick
from tests.webui.checkout import needs_webui
from tests.webui.page import LORA, Page, as_in_txt2img, by_method, gallery, sampling, shoot, tab

pytestmark = needs_webui

NAME = f"{LORA}-finetune"
FIELDS = {"prompt": "cat face", "neg_prompt": "red", "seed": 11, "steps": 5, "cfg_scale": 3, "width": 64, "height": 72}
DRAWING = {"negative_prompt": "red", "seed": 11, "steps": 5, "cfg_scale": 3, "width": 64, "height": 72, "sampler_name": "DDIM"}
STRENGTHS = ("0.4", "0.6", "0.8", "1")


@pytest.fixture
def page(browser: Any, ui: Page) -> Iterator[Any]:
    with tab(browser, ui, "finetune") as page:
        yield page


def move(page: Any, method: str, name: str = "") -> None:
    by_method(page, method)
    page.fill("#lorax_name textarea, #lorax_name input", name)
    page.click("#lorax_move")
    page.wait_for_selector(f"#lorax_which .token:has-text('{name or NAME}')")


def card(page: Any) -> Any:
    """The moved LoRA's card in txt2img."""
    page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
    page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
    return page.locator(f"#txt2img_lora_cards .card[data-name='{NAME}']")


def test_strengths_as_txt2img_draws_them_and_what_is_done_with_one(page: Any, ui: Page) -> None:
    move(page, "copy")
    page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
    pick(page, "#txt2img_sampling", "DDIM")
    as_in_txt2img(page, **FIELDS)
    assert page.input_value("#lorax_compare_sampler input") == "DDIM"
    assert page.input_value("#lorax_compare_negative textarea") == "red"
    page.fill("#lorax_compare_strengths input, #lorax_compare_strengths textarea", ", ".join(STRENGTHS))
    page.locator("#lorax_compare_strengths input, #lorax_compare_strengths textarea").blur()
    page.wait_for_selector("#lorax_compare_told :text('7 pictures (36 at most)')")
    page.click("#lorax_compare")
    page.wait_for_selector("#lorax_gallery .thumbnail-item:nth-child(7) img")
    page.wait_for_selector("#lorax_compare_told :text('7 pictures (36 at most), about')")
    *moved, source, alone, copied = gallery(page)
    shoot(page, "compare-strengths")
    tags = [f"<lora:{NAME}:{strength}>" for strength in STRENGTHS]
    for shown, tag in zip([*moved, alone, copied], [*tags, "", f"<lora:{LORA}:1>"], strict=True):
        assert abs(ui.draw(tag, **DRAWING).pictures[0] - shown).max() <= 1
    assert abs(moved[0] - moved[3]).max() >= 8
    ui.load("base")
    assert abs(ui.draw(f"<lora:{LORA}:1>", **DRAWING).pictures[0] - source).max() <= 1
    ui.load("finetune")

    page.locator("#lorax_gallery .thumbnail-item").nth(2).click()
    page.wait_for_selector("#lorax_picture_about :text('finetune with the moved LoRA at 0.8')")
    page.click("#lorax_use_strength:has-text('(0.8)')")
    page.wait_for_selector("#lorax_picture_about .lorax-done")
    stored = json.loads((ui.loras / f"{NAME}.json").read_text("utf-8"))
    assert (stored["preferred weight"], stored["activation text"]) == (0.8, "in contrast")
    preview = ui.loras / f"{NAME}.preview.png"
    before = preview.read_bytes()  # which came along from the LoRA
    page.click("#lorax_save_preview")
    page.wait_for_selector("#lorax_picture_about :text('has a preview already')")
    assert preview.read_bytes() == before
    shoot(page, "compare-picture")
    page.click("#lorax_replace_preview")
    page.wait_for_selector("#lorax_picture_about :text('Saved as preview')")
    shown = card(page)
    page.wait_for_function(
        f"() => document.querySelector(\"#txt2img_lora_cards .card[data-name='{NAME}']\")?.outerHTML.includes('0.8')"
    )
    url = shown.locator("img.preview").get_attribute("src")
    assert page.request.get(ui.address + url.removeprefix("./")).body() == preview.read_bytes() != before
    shoot(page, "compare-card")
    assert sorted(ui.moved()) == [f"{NAME}.json", f"{NAME}.preview.png", f"{NAME}.safetensors"]


def choose_axis(page: Any, axis: str, kind: str, values: list[str] | str) -> None:
    pick(page, f"#script_txt2img_xyz_plot_{axis}_type", kind)
    if isinstance(values, str):
        field = page.locator(
            f"#script_txt2img_xyz_plot_{axis}_values textarea, #script_txt2img_xyz_plot_{axis}_values input"
        ).first
        field.fill(values)
        field.blur()
        return
    page.locator(f"#txt2img_script_container #xyz_grid_fill_{axis}_tool_button").click()
    for value in values:
        page.wait_for_selector(f"#txt2img_script_container .token:has-text('{value}')")


def test_methods_of_earlier_transfers_beside_each_other_and_the_axes_of_the_plot(page: Any, ui: Page) -> None:
    other = f"{NAME}-prolora"
    move(page, "copy")
    move(page, "prolora", other)
    page.reload()
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.wait_for_function("() => document.querySelector('#lorax_source input')?.value")
    for name in (f"{NAME}  (copy", other):
        page.wait_for_timeout(1000)  # the list may not have arrived, or not have closed
        if not page.locator("#lorax_which .token").filter(has_text=name).count():  # the last result is there again, and chosen
            pick(page, "#lorax_which", name)
    as_in_txt2img(page, **FIELDS)
    page.click("#lorax_compare")
    page.wait_for_selector("#lorax_gallery .thumbnail-item:nth-child(5) img")
    assert all(caption in page.inner_text("#lorax_gallery") for caption in (f"{NAME} (copy)", f"{other} (prolora)"))
    shoot(page, "compare-methods")

    page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
    page.fill("#txt2img_prompt textarea", f"cat face <lora:{NAME}:0.9>")
    pick(page, "#script_list", "X/Y/Z plot")
    choose_axis(page, "x", "[LoRA-X] Method", ["copy", "prolora"])
    choose_axis(page, "y", "[LoRA-X] Strength", "0.4, 1")
    page.check("#script_txt2img_xyz_plot_include_lone_images input")
    drawn = plotted(page, 4)
    shoot(page, "xyz-methods")
    tags = [f"<lora:{name}:{strength}>" for strength in ("0.4", "1") for name in (NAME, other)]
    assert_as_drawn(page, ui, drawn, tags)
    assert abs(drawn[2] - drawn[3]).max() >= 8

    page.fill("#txt2img_prompt textarea", "cat face")
    choose_axis(page, "x", "[LoRA-X] Moved LoRA", ["None", other, NAME])  # as the WebUI sorts their files
    drawn = plotted(page, 6)
    shoot(page, "xyz-loras")
    assert_as_drawn(page, ui, drawn, ["", tags[1], tags[0], "", tags[3], tags[2]])


def plotted(page: Any, pictures: int) -> list[np.ndarray]:
    """The pictures of an X/Y/Z plot without the grid."""
    page.click("#txt2img_generate")
    page.wait_for_selector(f"#txt2img_gallery .grid-wrap .thumbnail-item:nth-child({pictures + 1}) img")
    return gallery(page, "#txt2img_gallery .grid-wrap")[1:]


def assert_as_drawn(page: Any, ui: Page, drawn: list[np.ndarray], tags: list[str]) -> None:
    sampled = DRAWING | sampling(page)
    for shown, tag in zip(drawn, tags, strict=True):
        assert abs(ui.draw(tag, **sampled).pictures[0] - shown).max() <= 1, tag
