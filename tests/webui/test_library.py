"""The part Library and a batch in a real WebUI, by clicks: chosen, stopped, shown again after F5, gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.ui.chromium import pick
from tests.webui.checkout import needs_webui
from tests.webui.page import AT_ONCE, LORA, Page, opened, shoot, stopped

pytestmark = needs_webui

MANY = 48  # enough to stop in the middle of, also if the two checkpoints were analysed before


@pytest.fixture
def page(browser: Any, ui: Page) -> Iterator[Any]:
    """The page with the part open, and with LoRAs of which some name their source and two do not."""
    tensors = load_file(ui.loras / f"{LORA}.safetensors")
    for number in range(MANY):
        save_file(
            tensors, ui.loras / f"many-{number:02}.safetensors", {"ss_sd_model_name": "base.safetensors", "of": str(number)}
        )
    for name in ("silent-1", "silent-2"):
        save_file(tensors, ui.loras / f"{name}.safetensors", {"of": name})
    page = opened(browser, ui)
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.wait_for_selector("#lorax_notes [data-answers]", state="attached")
    page.click("#lorax_refresh")
    page.wait_for_selector("#lorax_looking [data-look]", state="detached")
    pick(page, "#lorax_target", "pruned")
    page.click("#lorax_library .label-wrap")
    page.wait_for_selector("#lorax_library_status :text('Gains by moving')")
    yield page
    page.close()
    for path in (*ui.loras.rglob("many-*"), *ui.loras.rglob("silent-*")):
        path.unlink()


def search(page: Any, words: str) -> None:
    page.fill("#lorax_library_search textarea, #lorax_library_search input", words)
    page.press("#lorax_library_search textarea, #lorax_library_search input", "Enter")


def made(ui: Page) -> list[str]:
    return sorted(path.name for path in ui.loras.rglob("many-*-pruned.safetensors"))


def test_a_run_over_many_is_stopped_seen_again_after_f5_and_gone_on_with(page: Any, ui: Page) -> None:
    search(page, "many-")
    page.wait_for_selector(f"#lorax_library_table tr:nth-child({MANY})")
    page.click("#lorax_library_all")
    page.wait_for_selector(f"#lorax_library_status :text('{MANY} chosen')")
    shoot(page, "library")
    page.click("#lorax_library_move")
    page.wait_for_selector("#lorax_progress :text('writing')")
    assert stopped(page, "stopped") < AT_ONCE
    written = made(ui)
    assert 0 < len(written) < MANY

    page.wait_for_selector(f"#lorax_library_status :text('{MANY - len(written)} chosen')")  # what was moved is unticked
    page.click("#lorax_library_move")
    page.wait_for_selector("#lorax_progress :text('Moving')")
    page.reload()
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.wait_for_selector("#lorax_written .lorax-outcomes", timeout=120_000)
    assert len(made(ui)) == MANY
    page.click("#lorax_library .label-wrap")
    page.wait_for_selector(f"#lorax_library_status :text('Moved already: {MANY}')")
    shoot(page, "library-moved")


def test_the_source_of_several_is_told_once(page: Any, ui: Page) -> None:
    search(page, "silent")
    page.wait_for_selector("#lorax_library_table :text('Not known on which checkpoint it was trained')")
    for name in ("silent-1", "silent-2"):
        page.check(f"#lorax_library_table [data-lora='{name}']")
    pick(page, "#lorax_source", "base")
    page.click("#lorax_library_told")
    page.wait_for_selector("#lorax_library_table tr:nth-child(2) :text('A slimmed-down relative')")
    pick(page, "#lorax_adapters", "silent-1")
    page.wait_for_selector("#lorax_verdict :text('A slimmed-down relative')")
    assert page.input_value("#lorax_source input") == "base.safetensors"
