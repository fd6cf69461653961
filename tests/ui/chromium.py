"""A headless Chromium, and what tests do in its pages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SHOTS = Path(os.environ.get("LORAX_SCREENSHOTS", ".screenshots"))


@contextmanager
def launched() -> Iterator[Any]:
    """Chromium, to which ``evil.test`` is a name of this machine, as a name that was bound anew is."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: python dev.py ui")
    with playwright.sync_playwright() as driver:
        chromium = shutil.which("chromium") or shutil.which("google-chrome") or driver.chromium.executable_path
        if not Path(chromium).exists():
            pytest.skip("needs the system's Chromium, or playwright's: playwright install chromium")
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP evil.test 127.0.0.1"]
        opened = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


def pick(page: Any, selector: str, text: str) -> None:
    """Choose in a dropdown the entry of this name, which may have a folder before it and more words behind it."""
    page.locator(f"{selector} input").first.click()
    page.locator(f"{selector} input").first.fill(text)
    words = r"\s+".join(map(re.escape, text.split()))
    name = re.compile(rf"^\W*(\S*/)?{words}(?![\w-])")  # gradio 4 has a mark before what is chosen
    page.locator(f"{selector} ul.options li").filter(has_text=name).first.click()
    page.keyboard.press("Escape")
    page.locator(f"{selector} input").first.blur()  # gradio 3 opens the list when the field is entered anew


def move(page: Any) -> None:
    """Move what is chosen, and wait for the file."""
    page.click("#lorax_move")
    page.wait_for_selector("#lorax_written .lorax-done")


def shoot(page: Any, name: str) -> None:
    """Keep a screenshot, called after the version of gradio."""
    import gradio

    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-gradio{gradio.__version__.split('.')[0]}.png", full_page=True)
