"""What the extension adds to a real WebUI besides the tab: settings, API, messages, its cost; and all without Lora."""

from __future__ import annotations

import json
import shutil
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import plan
from tests import builders
from tests.ui.chromium import pick
from tests.webui.checkout import INSTALLATION, extension, needs_webui
from tests.webui.page import LORA, Page, by_method, moved, opened

pytestmark = needs_webui

STORED = {"lorax_tab/Similarity threshold/value": 0.8, "lorax_tab/Precision/value": "fp16", "lorax_tab/Move/visible": False}


@pytest.fixture(scope="module")
def settings(browser: Any, ui: Page) -> Iterator[Any]:
    """Our page of the settings."""
    page = opened(browser, ui)
    page.locator("#tabs > .tab-nav button", has_text="Settings").click()
    page.locator("#settings > .tab-nav button", has_text="LoRA-X").click()
    yield page
    page.close()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Has a data folder of earlier days, in which the WebUI stored the tab's values; and a login of its own for the API."""
    data = tmp_path_factory.mktemp("webui")
    webui = Page(data, "--api-auth", "me:secret", lorax_threshold=0.4, lorax_dtype="bf16", lorax_pictures=384)
    (data / "ui-config.json").write_text(json.dumps(STORED))
    with webui:
        yield webui


def test_defaults_of_the_settings_reach_the_tab_whatever_the_webui_has_stored(earlier: Page, browser: Any) -> None:
    page = opened(browser, earlier)
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.wait_for_selector("#lorax_notes [data-answers]", state="attached")
    assert page.input_value("#lorax_threshold input[type=number]") == "0.4"
    assert page.input_value("#lorax_dtype input") == "bf16"
    assert page.is_visible("#lorax_move")
    assert page.input_value("#lorax_pictures :is(input, textarea)") == "", "a default of an earlier version"
    page.close()
    assert earlier.settings()["lorax_pictures"] == ""
    now = json.loads((earlier.data / "ui-config.json").read_text())
    assert {name: value for name, value in now.items() if name.startswith("lorax_tab/")} == STORED, "it stores no more of it"


def test_the_apis_own_login_is_asked_for(earlier: Page) -> None:
    assert earlier.status("lorax/v1/bases") == 401
    assert earlier.status("lorax/v1/bases", "me:wrong") == 401
    assert earlier.status("lorax/v1/bases", "me:secret") == 200


def test_the_settings_page_holds_the_defaults(settings: Any, ui: Page) -> None:
    defaults = {"method": "auto", "threshold": 0.8, "dtype": "fp16", "save_as": "lora", "cache_size": 4, "cache_memory": 256}
    known = ui.settings()
    assert {name: known[f"lorax_{name}"] for name in defaults} == defaults
    shown = {name: settings.locator(f"#setting_lorax_{name} input").first.input_value() for name in defaults}
    assert shown == {name: str(value) for name, value in defaults.items()}


def test_the_caches_button_is_on_the_settings_page(settings: Any, ui: Page) -> None:
    kept = ui.data / "cache" / "lorax" / "key.lorax-fit"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"fitted")
    settings.click("#setting_lorax_cache_clear")
    settings.wait_for_function("() => document.querySelector('#setting_lorax_cache_clear').textContent.includes('Cleared')")
    assert not kept.exists()


def test_a_cache_folder_that_cannot_be_is_refused_with_the_reason(settings: Any, ui: Page) -> None:
    (ui.data / "file").write_bytes(b"")
    settings.fill("#setting_lorax_cache_folder textarea, #setting_lorax_cache_folder input", str(ui.data / "file" / "inside"))
    settings.click("#settings_submit")
    settings.wait_for_selector(".toast-body.warning")
    assert "cannot hold the cache" in settings.inner_text(".toast-body.warning")
    assert ui.settings()["lorax_cache_folder"] == ""


def test_a_message_of_the_network_type_is_in_the_pages_output(browser: Any, ui: Page) -> None:
    base, file = open_checkpoint(ui.checkpoints / "base.safetensors"), ui.loras / "newer.safetensors"
    save_lorax(plan(open_adapter(ui.loras / f"{LORA}.safetensors"), base, base, Options()), file)
    save_file(load_file(file), file, builders.header(file) | {"lorax_format": "9"})
    page = opened(browser, ui)
    page.fill("#txt2img_prompt textarea", "cat face <lora:newer:1>")
    for name, value in (("width", 64), ("height", 64), ("steps", 2)):
        page.fill(f"#txt2img_{name} input[type=number]", str(value))
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img")
    page.locator("#html_log_txt2img", has_text="newer:").first.wait_for()  # some show it after the picture
    assert "a LoRA-X file of format 9" in page.inner_text("#html_log_txt2img")
    page.close()


def test_api(ui: Page) -> None:
    asked = {"source": "base.safetensors", "target": "pruned.safetensors", "adapters": [LORA], "subfolder": "api"}
    job = ui.call("lorax/v1/transfer", asked)
    while job["state"] == "running":
        job = ui.call(f"lorax/v1/jobs/{job['id']}")
    assert job["results"][0]["written"] == f"api/{LORA}-pruned.safetensors"
    assert (ui.loras / "api" / f"{LORA}-pruned.safetensors").is_file()
    name = job["results"][0]["name"]
    assert name in {one["name"] for one in ui.call("lorax/v1/adapters")}, "as it is asked for"
    shutil.copy(ui.loras / f"{LORA}.safetensors", ui.loras / "came.safetensors")
    ui.call("lorax/v1/refresh", {})
    assert "came" in {one["name"] for one in ui.call("lorax/v1/adapters")}
    (ui.loras / "came.safetensors").unlink()
    ui.call("lorax/v1/refresh", {})
    with pytest.raises(urllib.error.HTTPError) as refused:
        ui.call("lorax/v1/transfer", asked | {"running": {"steps": float("nan")}})
    assert refused.value.code == 422
    assert json.loads(refused.value.read())["detail"].startswith("running.steps: ")
    assert "/lorax/v1/transfer" in ui.call("openapi.json")["paths"]


def test_the_start_imports_nothing_heavy(ui: Page) -> None:
    records = ui.call("internal/profile-startup")["records"]
    assert records["load scripts/lorax_webui.py"] < 3, (
        "by the clock of a machine that may be busy; tests/ui/test_start.py is strict"
    )


def test_the_pages_login_is_asked_for(tmp_path: Path) -> None:
    with Page(tmp_path, "--gradio-auth", "me:secret") as ui:
        assert ui.status("lorax/v1/bases") == 401


def test_without_api_and_with_lora_disabled(tmp_path: Path, browser: Any) -> None:
    with Page(tmp_path, api=False, disabled_extensions=[Path(extension(INSTALLATION)).name]) as ui:
        assert ui.status("lorax/v1/bases") == 404
        page = opened(browser, ui)
        page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
        page.wait_for_selector(
            "#lorax .lorax-warning :text('extension Lora is disabled'), #lorax .lorax-warning:text('Lora is disabled')"
        )
        pick(page, "#lorax_target", "finetune")
        pick(page, "#lorax_adapters", LORA)
        by_method(page, "copy")
        moved(page)
        assert f"{LORA}-finetune.safetensors" in ui.moved()
        page.close()
