"""The tab in a real browser. Runs in the environments that have gradio and playwright: ``python dev.py ui``."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorax.demo.bundle import unpack
from tests.lab_models import put_loras
from tests.ui.chromium import launched, pick
from tests.ui.double import Double


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with launched() as opened:
        yield opened


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled checkpoints. Tests must not change it."""
    folder = tmp_path_factory.mktemp("bundled")
    unpack(folder)
    return folder


@pytest.fixture
def models(unpacked: Path, tmp_path: Path) -> Path:
    """A user's folder with the bundled checkpoints and their LoRAs."""
    shutil.copytree(unpacked, tmp_path / "models")
    put_loras(tmp_path / "models" / "Lora")
    return tmp_path / "models"


@pytest.fixture
def handlers(models: Path) -> Any:
    """The handlers of the standalone tab."""
    from lorax.hosts.standalone import Standalone
    from lorax.ui.handlers import Handlers

    return Handlers(Standalone(models))


@pytest.fixture
def double(request: Any, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    """A WebUI's modules over a folder with the bundled models and their LoRAs; see ``in_each_shape``."""
    return installed(getattr(request, "param", "a1111"), unpacked, tmp_path, monkeypatch)


def installed(shape: str, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    shutil.copytree(unpacked, tmp_path / "Stable-diffusion")
    put_loras(tmp_path / "Lora")
    made = Double(tmp_path, shape)
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
    opened = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    opened.set_default_timeout(180_000)
    opened.goto(server)
    opened.wait_for_selector("#lorax_notes [data-answers]", state="attached")  # the lists are filled
    yield opened
    print("status line at the end:", opened.inner_text("#lorax_status"))  # pytest shows it where a test failed
    opened.context.close()


@pytest.fixture
def chosen(page: Any) -> Any:
    """A LoRA and a target for which it finds a new place, and the verdict on it."""
    page.wait_for_selector("#lorax_looking [data-look]", state="detached")  # gradio 4 loses a choice of that moment
    pick(page, "#lorax_adapters", "Lora/contrast-base")
    pick(page, "#lorax_target", "pruned")
    page.wait_for_selector("#lorax_verdict :text('A slimmed-down relative')")
    return page
