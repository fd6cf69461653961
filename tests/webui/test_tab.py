"""The tab and the API in a real WebUI, in a browser.

Needs ``LORAX_WEBUI_DIR``: a WebUI v1.10.1 with its ``venv``; and playwright, with its or the system's Chromium.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorax.demo import bundle
from tests.ui.conftest import SHOTS, browser, pick  # noqa: F401  (browser is a fixture)
from tests.webui.server import INSTALLATION, WebUI, needs_webui

pytestmark = needs_webui

LORA = "contrast-base"
# Between the buttons and the status line: the host's own style would have it cover the head of the tab.
BAR = """(() => {
    const [above, bar, below] = ["#lorax_analyse", "#lorax .progressDiv", "#lorax_status"].map(
        (part) => document.querySelector(part).getBoundingClientRect());
    return above.bottom <= bar.top && bar.bottom <= below.top && bar.width >= above.width;
})()"""
MORE = ("more-1", "more-2", "more-3")  # copies of it


class Page(WebUI):
    """A WebUI with its page, which may ask for a password."""

    def __init__(self, data: Path, *flags: str, api: bool = True, **config: Any) -> None:
        super().__init__(INSTALLATION, data, *flags)
        if not api:
            self._command.remove("--api")
        shutil.copytree(bundle.BUNDLE / "loras", self.loras, dirs_exist_ok=True)
        for name in MORE:
            shutil.copyfile(self.loras / f"{LORA}.safetensors", self.loras / f"{name}.safetensors")
        card = {"activation text": "in contrast", "sd version": "SD1"}
        (self.loras / f"{LORA}.json").write_text(json.dumps(card))
        (self.loras / f"{LORA}.preview.png").write_bytes(picture())
        known = json.loads((data / "config.json").read_text())
        (data / "config.json").write_text(json.dumps(known | config))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def status(self, path: str, login: str = "") -> int:
        headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
        try:
            return int(self._open(urllib.request.Request(self.address + path, headers=headers)).status)
        except urllib.error.HTTPError as error:
            return error.code

    def _answers(self) -> bool:
        try:
            self.status("")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def moved(self) -> list[str]:
        return sorted(path.name for path in self.loras.rglob(f"{LORA}-*"))


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(content, "png")
    return content.getvalue()


def opened(browser: Any, webui: Page) -> Any:  # noqa: F811
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(webui.address)
    page.wait_for_selector("#txt2img_prompt textarea")
    return page


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("webui"), sd_model_checkpoint="finetune.safetensors") as started:
        yield started


@pytest.fixture
def page(browser: Any, webui: Page) -> Iterator[Any]:  # noqa: F811
    """The tab, with source, target and LoRA chosen."""
    for path in webui.loras.rglob(f"{LORA}-*"):
        path.unlink()
    page = opened(browser, webui)
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.wait_for_function("() => document.querySelector('#lorax_source input')?.value")
    pick(page, "#lorax_target", "finetune")
    pick(page, "#lorax_adapters", LORA)
    page.wait_for_selector("#lorax_notes .lorax-facts")
    yield page
    page.close()


def shoot(page: Any, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-webui.png", full_page=True)


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


def choose_much(page: Any, method: str) -> None:
    """Enough work for the page to hear of it, and to stop in the middle of. A method's own, as what was analysed is kept."""
    for name in ("contrast-finetune", "contrast-pruned", *MORE):
        pick(page, "#lorax_adapters", name)
    page.click("#lorax_options .label-wrap")
    pick(page, "#lorax_method", method)


def test_analyse_has_the_webuis_progress_bar(page: Any, webui: Page) -> None:
    choose_much(page, "prolora-cross")
    page.click("#lorax_analyse")
    page.wait_for_function(f"() => document.querySelector('#lorax .progress')?.textContent.includes(': layer') && {BAR}")
    page.wait_for_selector("#lorax_summary .lorax-summary")
    page.wait_for_selector("#lorax_heatmap img")
    page.wait_for_selector("#lorax_table tbody tr:nth-child(5)")
    assert webui.moved() == []
    shoot(page, "analyse")


def test_interrupt_leaves_nothing_behind(page: Any, webui: Page) -> None:
    before = sorted(webui.loras.rglob("*"))
    choose_much(page, "prolora")
    page.click("#lorax_transfer")
    page.wait_for_function("() => document.querySelector('#lorax .progress')?.textContent.includes(': layer')")
    page.click("#lorax_interrupt")
    page.wait_for_selector("#lorax_status .lorax-warning")
    assert "Nothing was written" in page.inner_text("#lorax_status")
    assert sorted(webui.loras.rglob("*")) == before


def test_transfer_compare_and_send(page: Any, webui: Page) -> None:
    page.click("#lorax_transfer")
    page.wait_for_selector("#lorax_written .lorax-done")
    name = f"{LORA}-finetune"
    assert webui.moved() == [f"{name}.json", f"{name}.preview.png", f"{name}.safetensors"]
    assert page.input_value("#lorax_tag textarea") == f"<lora:{name}:1> in contrast"

    source, alone, copied, moved = compared(page)
    shoot(page, "compare")
    assert webui.call("sdapi/v1/options")["sd_model_checkpoint"].startswith("finetune")
    assert [base["name"] for base in webui.call("lorax/v1/bases") if base["loaded"]] == ["finetune.safetensors"]
    drawing = {"steps": 20, "cfg_scale": 7.0, "sampler_name": "DPM++ 2M", "scheduler": "Automatic"}
    for shown, tag in ((alone, ""), (copied, f"<lora:{LORA}:1>"), (moved, f"<lora:{name}:1>")):
        assert abs(webui.draw(tag, **drawing).pictures[0] - shown).max() <= 1
    webui.load("base")
    assert abs(webui.draw(f"<lora:{LORA}:1>", **drawing).pictures[0] - source).max() <= 1
    webui.load("finetune")

    page.click("#lorax_send")
    page.wait_for_function(f"() => document.querySelector('#txt2img_prompt textarea').value === '<lora:{name}:1> in contrast'")
    page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
    page.wait_for_selector(f"#txt2img_lora_cards .card[data-name='{name}']")
    assert page.locator(f"#txt2img_lora_cards .card[data-name='{name}'] img.preview").count() == 1
    shoot(page, "card")


def test_a_lorax_file_is_compared_as_it_acts_in_prompts(page: Any, webui: Page) -> None:
    page.click("#lorax_options .label-wrap")
    pick(page, "#lorax_save_as", "lora-x")
    pick(page, "#lorax_method", "copy")  # so that it draws what the plain copy draws
    page.click("#lorax_transfer")
    page.wait_for_selector("#lorax_written .lorax-done")
    assert page.input_value("#lorax_tag textarea") == f"<lora:{LORA}-lorax:1> in contrast"
    _, alone, copied, moved = compared(page)
    assert abs(moved - copied).max() <= 1
    assert abs(moved - alone).max() >= 8


def test_a_card_is_sent_to_the_tab(page: Any) -> None:
    page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
    page.locator("#txt2img_extra_tabs .tab-nav button", has_text="Lora").click()
    card = page.locator("#txt2img_lora_cards .card[data-name='contrast-pruned']")
    card.hover()
    card.locator(".lorax-card-button").click()
    page.wait_for_function("() => document.querySelectorAll('#lorax_adapters .token').length === 2")
    assert page.locator("#lorax_adapters").is_visible()
    assert "contrast-pruned" in page.inner_text("#lorax_adapters")


def test_the_settings_page_holds_the_defaults(webui: Page) -> None:
    known = webui.call("sdapi/v1/options")
    assert (known["lorax_method"], known["lorax_threshold"], known["lorax_dtype"]) == ("auto", 0.8, "fp16")
    assert (known["lorax_save_as"], known["lorax_cache_size"], known["lorax_cache_memory"]) == ("lora", 4, 256)


def test_the_caches_button_is_on_the_settings_page(browser: Any, webui: Page) -> None:  # noqa: F811
    kept = webui.data / "cache" / "lorax" / "key.lorax-fit"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"fitted")
    page = opened(browser, webui)
    page.locator("#tabs > .tab-nav button", has_text="Settings").click()
    page.locator("#settings > .tab-nav button", has_text="LoRA-X").click()
    page.click("#setting_lorax_cache_clear")
    page.wait_for_function("() => document.querySelector('#setting_lorax_cache_clear').textContent.includes('Cleared')")
    assert not kept.exists()
    page.close()


def test_api(webui: Page) -> None:
    asked = {"source": "base.safetensors", "target": "pruned.safetensors", "adapters": [LORA], "subfolder": "api"}
    job = webui.call("lorax/v1/transfer", asked)
    while job["state"] == "running":
        job = webui.call(f"lorax/v1/jobs/{job['id']}")
    assert job["results"][0]["written"] == f"api/{LORA}-pruned.safetensors"
    assert (webui.loras / "api" / f"{LORA}-pruned.safetensors").is_file()
    assert "/lorax/v1/transfer" in webui.call("openapi.json")["paths"]


def test_the_start_imports_nothing_heavy(webui: Page) -> None:
    records = webui.call("internal/profile-startup")["records"]
    assert records["load scripts/lorax_webui.py"] < 0.3


def test_the_apis_own_login_is_asked_for(tmp_path: Path) -> None:
    with Page(tmp_path, "--nowebui", "--api-auth", "me:secret") as webui:
        assert webui.status("lorax/v1/bases") == 401
        assert webui.status("lorax/v1/bases", "me:wrong") == 401
        assert webui.status("lorax/v1/bases", "me:secret") == 200


def test_the_pages_login_is_asked_for(tmp_path: Path) -> None:
    with Page(tmp_path, "--gradio-auth", "me:secret") as webui:
        assert webui.status("lorax/v1/bases") == 401


def test_without_api_and_with_lora_disabled(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    with Page(tmp_path, api=False, disabled_extensions=["Lora"]) as webui:
        assert webui.status("lorax/v1/bases") == 404
        page = opened(browser, webui)
        page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
        page.wait_for_selector("#lorax .lorax-warning")
        assert "extension Lora is disabled" in page.inner_text("#lorax .lorax-warning")
        pick(page, "#lorax_target", "finetune")
        pick(page, "#lorax_adapters", LORA)
        page.click("#lorax_transfer")
        page.wait_for_selector("#lorax_written .lorax-done")
        assert f"{LORA}-finetune.safetensors" in webui.moved()
        page.close()
