"""The tab in a real browser. Runs in the environments that have gradio and playwright: ``python dev.py ui``."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorax.demo.bundle import BUNDLE, unpack
from tests.ui.double import Double

SHOTS = Path(os.environ.get("LORAX_SCREENSHOTS", ".screenshots"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: python dev.py ui")
    with playwright.sync_playwright() as driver:
        chromium = shutil.which("chromium") or shutil.which("google-chrome") or driver.chromium.executable_path
        if not Path(chromium).exists():
            pytest.skip("needs the system's Chromium, or playwright's: playwright install chromium")
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The bundled models with their LoRAs, as a user's folder."""
    unpack(tmp_path / "models")
    shutil.copytree(BUNDLE / "loras", tmp_path / "models" / "Lora")
    return tmp_path / "models"


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    """A WebUI's modules over a folder with the bundled models and their LoRAs."""
    unpack(tmp_path / "Stable-diffusion")
    shutil.copytree(BUNDLE / "loras", tmp_path / "Lora")
    made = Double(tmp_path)
    made.install(monkeypatch)
    return made


@pytest.fixture
def server(models: Path) -> Iterator[str]:
    """Address of the standalone tab and API."""
    pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")
    from lorax.hosts.standalone import Standalone
    from lorax.serve import open_page

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = open_page(Standalone(models), "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}/"
    served.server.force_exit = True  # gradio 3 would wait for ever for what a page that was closed had asked
    served.close()


@pytest.fixture
def page(server: str, browser: Any) -> Iterator[Any]:
    """The standalone tab, open in the browser."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(180_000)
    opened.goto(server)
    opened.wait_for_function("() => document.querySelector('#lorax_source input')?.value")  # the lists are filled
    yield opened
    print("status line at the end:", opened.inner_text("#lorax_status"))  # pytest shows it where a test failed
    opened.close()


def pick(page: Any, selector: str, text: str) -> None:
    """Choose in a dropdown the entry that begins with ``text``."""
    page.locator(f"{selector} input").first.click()
    page.locator(f"{selector} input").first.fill(text)
    page.locator(f"{selector} ul.options li").filter(has_text=text).first.click()
    page.keyboard.press("Escape")
    page.locator(f"{selector} input").first.blur()  # gradio 3 opens the list when the field is entered anew


def shoot(page: Any, name: str) -> None:
    """Keep a screenshot, called after the version of gradio."""
    import gradio

    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-gradio{gradio.__version__.split('.')[0]}.png", full_page=True)
