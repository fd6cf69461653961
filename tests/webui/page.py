"""A real WebUI with its page, for a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from lorax.demo import bundle
from tests.ui.conftest import SHOTS
from tests.webui.server import INSTALLATION, PATIENCE, WebUI

LORA = "contrast-base"
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

    def _knock(self) -> None:
        self.status("")

    def moved(self) -> list[str]:
        return sorted(path.name for path in self.loras.rglob(f"{LORA}-*"))


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(content, "png")
    return content.getvalue()


def opened(browser: Any, webui: Page) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(webui.address)
    page.wait_for_selector("#txt2img_prompt textarea")
    return page


def shoot(page: Any, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-webui.png", full_page=True)
