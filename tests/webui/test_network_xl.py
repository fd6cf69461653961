"""SDXL and SSD-1B in a real WebUI: their two text encoders, their own names of layers, and switches to SD 1.x and back."""

from __future__ import annotations

import pytest

from tests.webui.checkout import needs_webui
from tests.webui.drawing import SDXL, message, same
from tests.webui.server import WebUI

pytestmark = needs_webui
RELATIVE = "xl-relative"
WEIGHT = 0.1  # the LoRA is random, and strong


@pytest.mark.parametrize("checkpoint", SDXL)
def test_one_network(webui: WebUI, checkpoint: str) -> None:
    webui.load(checkpoint)
    same(webui, checkpoint, f"<lora:z{{}}:{WEIGHT}>")


@pytest.mark.parametrize("tags", ["<lora:z{}:te=0.5:unet=0>", "<lora:z{}:te=0:unet=0.1>", "<lora:z{}:0.05:0.1:2>"])
def test_multipliers_and_dyn(webui: WebUI, tags: str) -> None:
    webui.load(RELATIVE)
    same(webui, RELATIVE, tags)


@pytest.mark.parametrize("tags", [f"<lora:z{{}}:{WEIGHT}><lora:z-xl:0.05>", f"<lora:z-xl:0.05><lora:z{{}}:{WEIGHT}>"])
def test_with_a_plain_lora_in_any_order(webui: WebUI, tags: str) -> None:
    webui.load(RELATIVE)
    same(webui, RELATIVE, tags)


def test_lora_functional(webui: WebUI) -> None:
    webui.load(RELATIVE)
    webui.options(lora_functional=True)
    try:
        same(webui, RELATIVE, f"<lora:z{{}}:{WEIGHT}>")
    finally:
        webui.options(lora_functional=False)


@pytest.mark.parametrize("limits", [{}, {"lora_in_memory_limit": 4}, {"sd_checkpoints_limit": 2}], ids=str)
def test_switching_between_families(webui: WebUI, limits: dict[str, int]) -> None:
    """A file of the other family is left out, with a message; what the host keeps of it in memory does no harm later."""
    webui.options(**limits)
    try:
        for _ in range(2):
            webui.load(RELATIVE)
            assert "made for Stable Diffusion 1.x, but" in message(webui, "<lora:x:1>")
            same(webui, RELATIVE, f"<lora:z{{}}:{WEIGHT}>")
            webui.load("finetune")
            assert "made for Stable Diffusion XL, but" in message(webui, f"<lora:z:{WEIGHT}>")
            same(webui, "finetune", "<lora:x{}:1>")
    finally:
        webui.options(**dict.fromkeys(limits, 1 if "sd_checkpoints_limit" in limits else 0))


def test_switching_within_the_family_with_the_same_prompt(webui: WebUI) -> None:
    """The host keeps the network as it is when only the checkpoint changes."""
    fitted = {}
    for checkpoint in (*SDXL, *SDXL):
        webui.load(checkpoint)
        fitted[checkpoint] = webui.draw(f"<lora:z:{WEIGHT}>")
    for checkpoint, drawn in fitted.items():
        webui.load(checkpoint)
        assert drawn.distance(webui.draw(f"<lora:z-{checkpoint}:{WEIGHT}>")) <= 1
