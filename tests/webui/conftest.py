"""The real WebUI that ``LORAX_WEBUI_DIR`` names, started once for all tests that need no flags of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.webui.drawing import furnish
from tests.webui.server import INSTALLATION, WebUI


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    webui = WebUI(INSTALLATION, tmp_path_factory.mktemp("webui"), "--nowebui")
    furnish(webui)
    with webui:
        yield webui


@pytest.fixture
def webui(started: WebUI) -> WebUI:
    """At the start of each test SD 1.x's base is loaded, and no network is applied."""
    started.load("base")
    started.draw(steps=1)
    return started
