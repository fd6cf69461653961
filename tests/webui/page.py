"""A real WebUI with its page, for a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorax.demo import bundle
from tests.lab_models import HEADLINE, put_loras
from tests.ui.chromium import SHOTS, pick
from tests.webui.checkout import INSTALLATION
from tests.webui.narrow_xl import VISION
from tests.webui.server import PATIENCE, WebUI

LORA = "contrast-base"
ARCHITECTURE = "lorax-lab-xl"  # as the ``.yaml`` calls it
AT_ONCE = 5  # seconds from a click on Interrupt to the end of a job, between the lab's models
MORE = tuple(f"more-{number}" for number in range(1, 6))  # copies of it


class Page(WebUI):
    """A WebUI with its page, which may ask for a password, and with all models that the lab trained."""

    def __init__(self, data: Path, *flags: str, api: bool = True, **config: Any) -> None:
        super().__init__(INSTALLATION, data, *flags)
        if not api:
            self._command.remove("--api")
        bundle.unpack(self.checkpoints, HEADLINE)
        _register(data, self.checkpoints / "tokenizer" / "config_2.json")
        put_loras(self.loras)
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


def _register(data: Path, config: Path) -> None:
    """The second text encoder of the lab's SDXL, for ``probe.py`` to tell OpenCLIP of."""
    sizes = json.loads(config.read_text())
    text = {
        "context_length": sizes["max_position_embeddings"],
        "vocab_size": sizes["vocab_size"],
        "width": sizes["hidden_size"],
        "heads": sizes["num_attention_heads"],
        "layers": sizes["num_hidden_layers"],
    }
    described = {"embed_dim": sizes["projection_dim"], "vision_cfg": VISION, "text_cfg": text}
    (data / "open_clip").mkdir()
    (data / "open_clip" / f"{ARCHITECTURE}.json").write_text(json.dumps(described))


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


@contextmanager
def tab(browser: Any, webui: Page, target: str) -> Iterator[Any]:
    """The tab, with source, target and LoRA chosen, where nothing was moved yet."""
    for path in webui.loras.rglob(f"{LORA}-*"):
        path.unlink()
    page = opened(browser, webui)
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.wait_for_selector("#lorax_notes [data-answers]", state="attached")
    pick(page, "#lorax_target", target)
    pick(page, "#lorax_adapters", LORA)
    page.wait_for_selector("#lorax_verdict .lorax-verdict")
    yield page
    page.close()


def open_options(page: Any) -> None:
    for part in ("#lorax_options", "#lorax_advanced"):
        if not page.is_visible(f"{part} .label-wrap.open"):
            page.click(f"{part} > .label-wrap")


def by_method(page: Any, method: str) -> None:
    """Choose a method by name, which Move then uses."""
    open_options(page)
    pick(page, "#lorax_method", method)
    page.wait_for_selector("#lorax_move", state="visible")


def moved(page: Any, button: str = "move") -> None:
    """Move what is chosen, by a button of the verdict, and wait for what comes of it."""
    page.click(f"#lorax_{button}")
    ended = (
        "#lorax_written .lorax-done",
        "#lorax_written .lorax-warning",
        "#lorax_written .lorax-error",
        "#lorax_status .lorax-error",
    )
    page.wait_for_selector(", ".join(ended))


def stopped(page: Any, said: str) -> float:
    """Press Interrupt; return the seconds until the page says what has come of it."""
    began = time.monotonic()
    page.click("#lorax_interrupt")
    page.wait_for_selector(f"#lorax_written :text('{said}')")
    return time.monotonic() - began


def as_in_txt2img(page: Any, **values: Any) -> None:
    """Fill in the fields of txt2img, and have Compare take them."""
    page.locator("#tabs > .tab-nav button", has_text="txt2img").click()
    for name, value in values.items():
        field = page.locator(f"#txt2img_{name} textarea, #txt2img_{name} input[type=number]").first
        if field.input_value() != str(value):  # the WebUI draws its page anew after each, which takes a second
            field.fill(str(value))
            field.blur()
    page.locator("#tabs > .tab-nav button", has_text="LoRA-X").click()
    page.fill("#lorax_prompt textarea", "")  # it may have been taken already, after a move
    page.click("#lorax_from_txt2img")
    page.wait_for_function(f"() => document.querySelector('#lorax_prompt textarea').value === '{values['prompt']}'")


def sampling(page: Any) -> dict[str, str]:
    """What txt2img samples by, as the API calls it. Each WebUI begins with another sampler."""
    fields = {"sampler_name": "sampling", "scheduler": "scheduler"}
    return {name: page.locator(f"#txt2img_{field} input").first.input_value() for name, field in fields.items()}


def gallery(page: Any, part: str = "#lorax_gallery") -> list[np.ndarray]:
    """The pictures (H, W, 3) of a gallery, in grey levels."""
    shown = page.locator(f"{part} .thumbnail-item img")
    urls = [shown.nth(i).get_attribute("src") for i in range(shown.count())]
    return [np.asarray(Image.open(io.BytesIO(page.request.get(url).body())).convert("RGB"), int) for url in urls]


def shoot(page: Any, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-webui.png", full_page=True)
