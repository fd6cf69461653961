"""A real WebUI that saves memory: parts of the model wait elsewhere, or weights are in half precision or in FP8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.webui.checkout import INSTALLATION, needs_flags, needs_webui
from tests.webui.drawing import furnish, same
from tests.webui.server import WebUI

pytestmark = [needs_webui, needs_flags]
STARTS: dict[str, dict[str, Any]] = {
    "medvram": {"flags": ["--medvram"]},
    "lowvram": {"flags": ["--lowvram"]},
    "half": {"half": True},
    "half, medvram": {"flags": ["--medvram"], "half": True},
}


@pytest.fixture(scope="module")
def saving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    start = STARTS[request.param]
    webui = WebUI(
        INSTALLATION, tmp_path_factory.mktemp("webui"), "--nowebui", *start.get("flags", ()), half=start.get("half", False)
    )
    furnish(webui)
    with webui:
        yield webui


@pytest.mark.parametrize("saving", STARTS, indirect=True)
def test_every_checkpoint(saving: WebUI) -> None:
    for checkpoint in ("finetune", "base", "pruned", "finetune"):
        saving.load(checkpoint)
        same(saving, checkpoint, "<lora:x{}:1>")
    same(saving, "finetune", "<lora:y{}:0.5><lora:x{}:1>")
    for checkpoint in ("xl-relative", "xl", "xl-pruned"):
        saving.load(checkpoint)
        same(saving, checkpoint, "<lora:z{}:0.1>")
    saving.load("finetune")
    same(saving, "finetune", "<lora:x{}:0.5>")


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("saving", ["half"], indirect=True)
def test_fp8_storage(saving: WebUI, cached: bool) -> None:
    """The host cannot draw with SDXL in FP8 on a CPU with full weights, with or without a network."""
    saving.load("finetune")
    saving.options(fp8_storage="Enable", cache_fp16_weight=cached)
    try:
        same(saving, "finetune", "<lora:x{}:1>")
        saving.load("xl-relative")
        assert "FP8 weight: Enable" in same(saving, "xl-relative", "<lora:z{}:0.1>").infotext
    finally:
        saving.options(fp8_storage="Disable", cache_fp16_weight=False)
