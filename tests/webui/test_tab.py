"""The tab in a real WebUI, in a browser.

Needs ``LORAX_WEBUI_DIR``: a WebUI v1.10.1 with its ``venv``; and playwright, with its or the system's Chromium.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.ui.chromium import pick
from tests.webui.checkout import needs_webui
from tests.webui.page import (
    AT_ONCE,
    LORA,
    MORE,
    Page,
    as_in_txt2img,
    by_method,
    gallery,
    moved,
    opened,
    sampling,
    shoot,
    stopped,
    tab,
)
from tests.webui.server import PATIENCE

pytestmark = needs_webui

STEPS = 8
CHOSEN = "#setting_sd_model_checkpoint input, .model_selection input"  # the checkpoint above the tabs, as Forge calls it


@pytest.fixture
def page(browser: Any, ui: Page) -> Iterator[Any]:
    with tab(browser, ui, "finetune") as page:
        yield page


def compared(page: Any) -> list[np.ndarray]:
    """The four pictures of Compare, (64, 64, 3) in grey levels."""
    as_in_txt2img(page, prompt="cat face", seed=7, steps=STEPS, cfg_scale=7, width=64, height=64)
    page.click("#lorax_compare")
    page.wait_for_selector("#lorax_gallery .thumbnail-item:nth-child(4) img")
    return gallery(page)


def test_what_is_loaded_is_said_and_the_source_is_proposed(page: Any) -> None:
    pick(page, "#lorax_target", "pruned")
    page.wait_for_selector("#lorax_loaded :text('Loaded now: finetune.safetensors')")
    assert page.input_value("#lorax_source input") == "base.safetensors"
    assert "in contrast" in page.inner_text("#lorax_notes")
    page.click("#lorax_target_loaded")
    page.wait_for_function("() => document.querySelector('#lorax_target input').value === 'finetune.safetensors'")


def test_all_that_was_chosen_in_quick_succession_is_in_the_notes(page: Any) -> None:
    names = ("contrast-finetune", "contrast-pruned", *MORE)
    for name in names:
        pick(page, "#lorax_adapters", name)
    page.wait_for_function(
        f"() => document.querySelectorAll('#lorax_notes .lorax-facts').length === {len(names) + 1}", timeout=20_000
    )


def test_another_checkpoint_that_was_loaded_meanwhile_is_the_target_unless_another_was_chosen(page: Any, ui: Page) -> None:
    ui.load("base")
    try:
        look_again(page)
        page.wait_for_function("() => document.querySelector('#lorax_target input').value === 'base.safetensors'")
        pick(page, "#lorax_target", "pruned")
        page.wait_for_selector("#lorax_loaded >> text=Loaded now: base.safetensors")
        ui.load("finetune")
        look_again(page)
        page.wait_for_selector("#lorax_loaded >> text=Loaded now: finetune.safetensors")
        assert page.input_value("#lorax_target input") == "pruned.safetensors"
    finally:
        ui.load("finetune")


def look_again(page: Any) -> None:
    for name in ("txt2img", "LoRA-X"):
        page.locator("#tabs > .tab-nav button", has_text=name).click()


def choose_much(page: Any, method: str) -> None:
    """Choose enough work for the page to hear of it. A method's own, as what was analysed is kept."""
    for name in MORE:
        pick(page, "#lorax_adapters", name)
    by_method(page, method)


def test_the_details_tell_of_every_layer(page: Any, ui: Page) -> None:
    choose_much(page, "prolora-cross")
    page.click("#lorax_details > .label-wrap")
    page.click("#lorax_analyse")
    page.wait_for_selector("#lorax_summary .lorax-summary")
    page.wait_for_selector("#lorax_heatmap img")
    page.wait_for_selector("#lorax_table tbody tr:nth-child(5)")
    assert ui.moved() == []
    shoot(page, "details")


def test_interrupt_leaves_nothing_behind(page: Any, ui: Page) -> None:
    before = sorted(ui.loras.rglob("*"))
    choose_much(page, "refine")  # what goes by weights alone is over before it can be stopped
    page.click("#lorax_move")
    page.wait_for_selector("#lorax_progress :text('drawing pictures')")
    assert stopped(page, "stopped") < AT_ONCE
    assert sorted(ui.loras.rglob("*")) == before


def test_four_clicks_from_a_card_to_a_picture(browser: Any, ui: Page) -> None:
    """The target is loaded at first; another one is loaded by Send."""
    for path in ui.loras.rglob(f"{LORA}-*"):
        path.unlink()
    ui.load("pruned")
    try:
        page = opened(browser, ui)
        for name, value in (("width", 64), ("height", 64), ("steps", 2)):
            page.fill(f"#txt2img_{name} input[type=number]", str(value))
        page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
        card = page.locator(f"#txt2img_lora_cards .card[data-name='{LORA}']")
        card.hover()
        card.locator(".lorax-card-button").click()
        page.wait_for_selector("#lorax_verdict :text('A slimmed-down relative')")
        assert page.input_value("#lorax_source input") == "base.safetensors"
        assert page.input_value("#lorax_target input") == "pruned.safetensors"
        shoot(page, "from-card")
        page.click("#lorax_move")
        page.wait_for_selector("#lorax_written .lorax-done")
        ui.load("finetune")  # elsewhere, meanwhile
        page.click("#lorax_send")
        page.wait_for_function("() => document.querySelector('#txt2img_prompt textarea').value.includes('-pruned:1>')")
        page.wait_for_function(f"() => document.querySelector('{CHOSEN}').value.startsWith('pruned')")
        until_chosen(ui, "pruned")
        page.click("#txt2img_generate")
        page.wait_for_selector("#txt2img_gallery img")
        assert ui.call("sdapi/v1/options")["sd_model_checkpoint"].startswith("pruned")
        page.locator("#html_info_txt2img", has_text=f"{LORA}-pruned").first.wait_for()  # some show it after the picture
        shoot(page, "four-clicks")
        page.close()
    finally:
        ui.load("finetune")


def until_chosen(ui: Page, checkpoint: str) -> None:
    """Wait until the WebUI has heard of a choice that the page shows already; a click before that draws with the one before."""
    deadline = time.monotonic() + PATIENCE
    while not ui.call("sdapi/v1/options")["sd_model_checkpoint"].startswith(checkpoint):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_original_is_used_where_it_works(page: Any, ui: Page) -> None:
    page.wait_for_selector("#lorax_verdict :text('the original already works here')")
    page.click("#lorax_use_original")
    tag = f"<lora:{LORA}:1> in contrast"
    page.wait_for_function(f"() => document.querySelector('#txt2img_prompt textarea').value.includes('{tag}')")


def test_move_compare_and_send(page: Any, ui: Page) -> None:
    by_method(page, "copy")
    moved(page)
    name = f"{LORA}-finetune"
    assert ui.moved() == [f"{name}.json", f"{name}.preview.png", f"{name}.safetensors"]
    assert page.input_value("#lorax_tag textarea") == f"<lora:{name}:1> in contrast"
    assert page.inner_text("#lorax_adapters .token").startswith(f"{LORA} "), "not the new one in its place"

    source, alone, copied, drawn = compared(page)
    shoot(page, "compare")
    assert ui.call("sdapi/v1/options")["sd_model_checkpoint"].startswith("finetune")
    assert [base["name"] for base in ui.call("lorax/v1/bases") if base["loaded"]] == ["finetune.safetensors"]
    drawing = {"steps": STEPS, "cfg_scale": 7.0, **sampling(page)}
    for shown, tag in ((alone, ""), (copied, f"<lora:{LORA}:1>"), (drawn, f"<lora:{name}:1>")):
        assert abs(ui.draw(tag, **drawing).pictures[0] - shown).max() <= 1
    ui.load("base")
    assert abs(ui.draw(f"<lora:{LORA}:1>", **drawing).pictures[0] - source).max() <= 1
    ui.load("finetune")

    page.locator("#txt2img_prompt textarea").evaluate(f"(area) => (area.value = 'cat <lora:{LORA}:0.7> face')")
    page.click("#lorax_send")
    sent = f"cat face <lora:{name}:1> in contrast"  # the original does not act besides
    page.wait_for_function(f"() => document.querySelector('#txt2img_prompt textarea').value === '{sent}'")
    page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
    page.wait_for_selector(f"#txt2img_lora_cards .card[data-name='{name}']")
    assert page.locator(f"#txt2img_lora_cards .card[data-name='{name}'] img.preview").count() == 1
    shoot(page, "card")


def test_a_lorax_file_is_compared_as_it_acts_in_prompts(page: Any, ui: Page) -> None:
    by_method(page, "copy")  # so that it draws what the plain copy draws
    pick(page, "#lorax_save_as", "lora-x")
    moved(page)
    assert page.input_value("#lorax_tag textarea") == f"<lora:{LORA}-lorax:1> in contrast"
    _, alone, copied, drawn = compared(page)
    assert abs(drawn - copied).max() <= 1
    assert abs(drawn - alone).max() >= 8


def test_a_lorax_file_that_cannot_be_read_any_more_is_told_of(page: Any, ui: Page) -> None:
    by_method(page, "copy")
    pick(page, "#lorax_save_as", "lora-x")
    moved(page)
    written = ui.loras / f"{LORA}-lorax.safetensors"
    with safe_open(written, "pt") as file:
        save_file(load_file(written), written, file.metadata() | {"lorax_format": "99"})
    page.click("#lorax_compare")
    page.wait_for_selector("#lorax_status .lorax-error")
    assert "format 99" in page.inner_text("#lorax_status")


def test_a_name_that_prompts_would_take_for_another_file_is_refused(page: Any, ui: Page) -> None:
    known = ui.loras / "zz" / f"{LORA}-finetune.safetensors"
    known.parent.mkdir(exist_ok=True)
    shutil.copy(ui.loras / f"{LORA}.safetensors", known)
    by_method(page, "copy")
    moved(page)
    assert f"could not be told from {known}" in page.inner_text("#lorax_written")
    assert ui.moved() == [known.name]
