"""The tab in a real WebUI, in a browser.

Needs ``LORAX_WEBUI_DIR``: a WebUI v1.10.1 with its ``venv``; and playwright, with its or the system's Chromium.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.ui.chromium import pick
from tests.webui.page import LORA, MORE, Page, shoot, tab
from tests.webui.server import needs_webui

pytestmark = needs_webui

# Between the buttons and the status line: the host's own style would have it cover the head of the tab.
BAR = """(() => {
    const [above, bar, below] = ["#lorax_analyse", "#lorax .progressDiv", "#lorax_status"].map(
        (part) => document.querySelector(part).getBoundingClientRect());
    return above.bottom <= bar.top && bar.bottom <= below.top && bar.width >= above.width;
})()"""


@pytest.fixture
def page(browser: Any, ui: Page) -> Iterator[Any]:
    with tab(browser, ui, "finetune") as page:
        yield page


def compared(page: Any) -> list[np.ndarray]:
    """The four pictures of Compare, (64, 64, 3) in grey levels."""
    page.fill("#lorax_prompt textarea", "cat face")
    page.fill("#lorax_size input", "64")
    page.click("#lorax_compare")
    page.wait_for_selector("#lorax_gallery .thumbnail-item:nth-child(4) img")
    shown = page.locator("#lorax_gallery .thumbnail-item img")
    urls = [shown.nth(i).get_attribute("src") for i in range(shown.count())]
    return [np.asarray(Image.open(io.BytesIO(page.request.get(url).body())).convert("RGB"), int) for url in urls]


def test_what_is_loaded_is_said_and_the_source_is_proposed(page: Any) -> None:
    assert "Loaded now: finetune.safetensors" in page.inner_text("#lorax_loaded")
    assert page.input_value("#lorax_source input") == "base.safetensors"
    assert "in contrast" in page.inner_text("#lorax_notes")
    page.click("#lorax_target_loaded")
    assert page.input_value("#lorax_target input") == "finetune.safetensors"


def test_all_that_was_chosen_in_quick_succession_is_in_the_notes(page: Any) -> None:
    names = ("contrast-finetune", "contrast-pruned", *MORE)
    for name in names:
        pick(page, "#lorax_adapters", name)
    page.wait_for_function(f"() => document.querySelectorAll('#lorax_notes tr').length === {len(names) + 2}", timeout=20_000)


def test_another_checkpoint_that_was_loaded_meanwhile_is_said(page: Any, ui: Page) -> None:
    ui.load("base")
    try:
        page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
        page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
        page.wait_for_selector("#lorax_loaded >> text=Loaded now: base.safetensors")
    finally:
        ui.load("finetune")


def choose_much(page: Any, method: str) -> None:
    """Enough work for the page to hear of it, and to stop in the middle of. A method's own, as what was analysed is kept."""
    for name in ("contrast-finetune", "contrast-pruned", *MORE):
        pick(page, "#lorax_adapters", name)
    page.click("#lorax_options .label-wrap")
    pick(page, "#lorax_method", method)


def test_analyse_has_the_webuis_progress_bar(page: Any, ui: Page) -> None:
    choose_much(page, "prolora-cross")
    page.click("#lorax_analyse")
    page.wait_for_function(f"() => document.querySelector('#lorax .progress')?.textContent.includes('measuring layers') && {BAR}")
    page.wait_for_selector("#lorax_summary .lorax-summary")
    page.wait_for_selector("#lorax_heatmap img")
    page.wait_for_selector("#lorax_table tbody tr:nth-child(5)")
    assert ui.moved() == []
    shoot(page, "analyse")


def test_interrupt_leaves_nothing_behind(page: Any, ui: Page) -> None:
    before = sorted(ui.loras.rglob("*"))
    choose_much(page, "prolora")
    page.click("#lorax_transfer")
    page.wait_for_function("() => document.querySelector('#lorax .progress')?.textContent.includes('measuring layers')")
    page.click("#lorax_interrupt")
    page.wait_for_selector("#lorax_status .lorax-warning")
    assert "Nothing was written" in page.inner_text("#lorax_status")
    assert sorted(ui.loras.rglob("*")) == before


def test_transfer_compare_and_send(page: Any, ui: Page) -> None:
    page.click("#lorax_transfer")
    page.wait_for_selector("#lorax_written .lorax-done")
    name = f"{LORA}-finetune"
    assert ui.moved() == [f"{name}.json", f"{name}.preview.png", f"{name}.safetensors"]
    assert page.input_value("#lorax_tag textarea") == f"<lora:{name}:1> in contrast"

    source, alone, copied, moved = compared(page)
    shoot(page, "compare")
    assert ui.call("sdapi/v1/options")["sd_model_checkpoint"].startswith("finetune")
    assert [base["name"] for base in ui.call("lorax/v1/bases") if base["loaded"]] == ["finetune.safetensors"]
    drawing = {"steps": 20, "cfg_scale": 7.0, "sampler_name": "DPM++ 2M", "scheduler": "Automatic"}
    for shown, tag in ((alone, ""), (copied, f"<lora:{LORA}:1>"), (moved, f"<lora:{name}:1>")):
        assert abs(ui.draw(tag, **drawing).pictures[0] - shown).max() <= 1
    ui.load("base")
    assert abs(ui.draw(f"<lora:{LORA}:1>", **drawing).pictures[0] - source).max() <= 1
    ui.load("finetune")

    page.click("#lorax_send")
    page.wait_for_function(f"() => document.querySelector('#txt2img_prompt textarea').value === '<lora:{name}:1> in contrast'")
    page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
    page.wait_for_selector(f"#txt2img_lora_cards .card[data-name='{name}']")
    assert page.locator(f"#txt2img_lora_cards .card[data-name='{name}'] img.preview").count() == 1
    shoot(page, "card")


def test_a_lorax_file_is_compared_as_it_acts_in_prompts(page: Any, ui: Page) -> None:
    page.click("#lorax_options .label-wrap")
    pick(page, "#lorax_save_as", "lora-x")
    pick(page, "#lorax_method", "copy")  # so that it draws what the plain copy draws
    page.click("#lorax_transfer")
    page.wait_for_selector("#lorax_written .lorax-done")
    assert page.input_value("#lorax_tag textarea") == f"<lora:{LORA}-lorax:1> in contrast"
    _, alone, copied, moved = compared(page)
    assert abs(moved - copied).max() <= 1
    assert abs(moved - alone).max() >= 8


def test_a_lorax_file_that_is_not_applied_is_told_of(page: Any, ui: Page) -> None:
    page.click("#lorax_options .label-wrap")
    pick(page, "#lorax_save_as", "lora-x")
    page.click("#lorax_transfer")
    page.wait_for_selector("#lorax_written .lorax-done")
    written = ui.loras / f"{LORA}-lorax.safetensors"
    with safe_open(written, "pt") as file:
        save_file(load_file(written), written, file.metadata() | {"lorax_format": "99"})
    compared(page)
    page.wait_for_selector("#lorax_status .lorax-warning")
    status = page.inner_text("#lorax_status")
    assert f"finetune with the moved LoRA: LoRA-X, {LORA}-lorax: " in status
    assert "format 99" in status


def test_a_name_that_prompts_would_take_for_another_file_is_refused(page: Any, ui: Page) -> None:
    known = ui.loras / "zz" / f"{LORA}-finetune.safetensors"
    known.parent.mkdir(exist_ok=True)
    shutil.copy(ui.loras / f"{LORA}.safetensors", known)
    page.click("#lorax_transfer")
    page.wait_for_selector("#lorax_status .lorax-error")
    assert f"could not be told from {known}" in page.inner_text("#lorax_status")
    assert ui.moved() == [known.name]


def test_a_card_is_sent_to_the_tab(page: Any) -> None:
    page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
    page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
    card = page.locator("#txt2img_lora_cards .card[data-name='contrast-pruned']")
    card.hover()
    card.locator(".lorax-card-button").click()
    page.wait_for_function("() => document.querySelectorAll('#lorax_adapters .token').length === 2")
    assert page.locator("#lorax_adapters").is_visible()
    assert "contrast-pruned" in page.inner_text("#lorax_adapters")
