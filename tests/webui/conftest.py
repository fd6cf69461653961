"""The real WebUI that ``LORAX_WEBUI_DIR`` names, started once to draw and once with its page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.ui.chromium import launched
from tests.webui.checkout import INSTALLATION
from tests.webui.drawing import furnish
from tests.webui.page import Page
from tests.webui.server import WebUI


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with launched() as opened:
        yield opened


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    webui = WebUI(INSTALLATION, tmp_path_factory.mktemp("webui"), "--nowebui")
    furnish(webui)
    with webui:
        yield webui


@pytest.fixture
def webui(started: WebUI) -> WebUI:
    """The WebUI with SD 1.x's base loaded and no network applied."""
    started.load("base")
    started.draw(steps=1)
    return started


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("webui"), sd_model_checkpoint="finetune.safetensors") as started:
        yield started
