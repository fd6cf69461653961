"""A LoRA-X file that a real WebUI cannot apply, or not yet, says why in the output, and the picture is made."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file, save_file

from tests import builders
from tests.webui.checkout import needs_webui
from tests.webui.drawing import SAME, message
from tests.webui.server import WebUI

pytestmark = needs_webui


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lorax_format": "9"}, "a LoRA-X file of format 9; this version reads up to format 1. Update the extension."),
        ({"lorax_family": "sdxl"}, "made for Stable Diffusion XL, but"),
        ({"lorax_format": None}, "The header of this LoRA-X file is damaged"),
        ({"lorax_settings": None}, "The header of this LoRA-X file is damaged"),
    ],
    ids=["newer", "family", "no format", "no settings"],
)
def test_a_file_that_cannot_be_applied_says_why(webui: WebUI, metadata: dict[str, str | None], words: str) -> None:
    header = {
        key: value for key, value in (builders.header(webui.loras / "x.safetensors") | metadata).items() if value is not None
    }
    save_file(load_file(webui.loras / "x.safetensors"), webui.loras / "odd.safetensors", header)
    for _ in range(2):  # also when the host has it in memory
        assert words in message(webui, "<lora:odd:1>")
    both = webui.draw("<lora:odd:1><lora:y:1>")  # the other networks are applied
    assert words in both.messages
    assert both.distance(webui.draw("<lora:y-base:1>")) <= SAME


def test_a_file_that_the_host_cannot_load_says_why(webui: WebUI) -> None:
    content = (webui.loras / "x.safetensors").read_bytes()
    (webui.loras / "cut.safetensors").write_bytes(content[: len(content) // 2])
    assert "cut.safetensors" in message(webui, "<lora:cut:1>")


def test_interrupting_the_fit(webui: WebUI) -> None:
    """Progress is shown, Interrupt ends it, and the next prompt fits the file from the start."""
    webui.load("finetune")
    file = webui.loras / "slow.safetensors"
    with ThreadPoolExecutor() as pool:
        for attempt in range(20):  # the bundled models are small: the fit may be over before the request arrives
            save_file(load_file(webui.loras / "x.safetensors"), file, builders.header(file.with_stem("x")) | {"n": str(attempt)})
            drawn = pool.submit(webui.draw, "<lora:slow:1>")
            while not drawn.done():
                if "LoRA-X: fitting slow: moving layers, " in (webui.call("sdapi/v1/progress")["textinfo"] or ""):
                    webui.call("sdapi/v1/interrupt", {})
                    break
            if "not applied: interrupted" in drawn.result().messages:
                break
        else:
            pytest.fail("no fit was interrupted")
    fitted = webui.draw("<lora:slow:1>")
    assert not fitted.messages
    assert fitted.distance(webui.draw("<lora:x-finetune:1>")) <= SAME


def test_a_missing_source_is_named_and_used_as_soon_as_it_is_there(webui: WebUI) -> None:
    file = webui.loras / "orphan.safetensors"
    shutil.copy(webui.loras / "x.safetensors", file)
    save_file(load_file(file), file, builders.header(file) | {"lorax_version": "another"})  # not in the cache
    webui.load("finetune")
    source = webui.checkpoints / "base.safetensors"
    source.rename(webui.data / "base.safetensors")
    webui.call("sdapi/v1/refresh-checkpoints", {})
    try:
        by_name = webui.draw("<lora:orphan:1>")
        assert "applied by name, since base.safetensors" in by_name.messages
    finally:
        (webui.data / "base.safetensors").rename(source)
        webui.call("sdapi/v1/refresh-checkpoints", {})
    fitted = webui.draw("<lora:orphan:1>")
    assert not fitted.messages
    assert by_name.distance(webui.draw("<lora:x-base:1>")) <= SAME
    assert fitted.distance(webui.draw("<lora:x-finetune:1>")) <= SAME
