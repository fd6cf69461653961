"""``<lora:x:1>`` with a LoRA-X file draws in a real WebUI what the plain LoRA draws that is saved for the same checkpoint.

Needs ``LORAX_WEBUI_DIR``: a WebUI v1.10.1 with its ``venv``. Each test asks for the same pictures with the LoRA-X file ``x`` and
with the plain LoRAs ``x-base``, ``x-finetune`` and ``x-pruned``, which are saved beforehand as the tab saves them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests import builders
from tests.webui.checkout import INSTALLATION, needs_fp8, needs_webui
from tests.webui.drawing import OTHER, SAME, SD1, STYLE, make, same
from tests.webui.server import WebUI

pytestmark = needs_webui


@pytest.mark.parametrize("checkpoint", SD1)
def test_one_network(webui: WebUI, checkpoint: str) -> None:
    webui.load(checkpoint)
    same(webui, checkpoint, "<lora:x{}:1>")


def test_it_is_not_the_copy_by_name(webui: WebUI) -> None:
    webui.load("finetune")
    assert webui.draw("<lora:x:1>").distance(webui.draw("<lora:x-base:1>")) >= OTHER


def test_a_plain_lora_that_was_replaced_draws_as_the_new_file(webui: WebUI) -> None:
    """The host reads it again, but compares names alone before it changes the weights."""
    webui.load("base")
    files = {name: webui.loras / f"{name}.safetensors" for name in ("replaced", "x-base", "y-base")}
    shutil.copyfile(files["x-base"], files["replaced"])
    webui.call("sdapi/v1/refresh-loras", {})
    before = webui.draw("<lora:replaced:1>")
    shutil.copyfile(files["y-base"], files["replaced"])
    expected = webui.draw("<lora:y-base:1>")
    assert expected.distance(before) >= OTHER
    try:
        assert webui.draw("<lora:replaced:1>").distance(expected) <= SAME
        shutil.copyfile(files["x-base"], files["replaced"])
        os.utime(files["replaced"], (0, files["replaced"].stat().st_mtime + 1))
        assert webui.draw("<lora:replaced:1>").distance(before) <= SAME
    finally:
        files["replaced"].unlink()


@pytest.mark.parametrize("tags", ["<lora:x{}:1><lora:y{}:0.5>", "<lora:y{}:0.5><lora:x{}:1>", "<lora:y-base:0.5><lora:x{}:1>"])
def test_several_networks_in_any_order(webui: WebUI, tags: str) -> None:
    webui.load("finetune")
    same(webui, "finetune", tags)


@pytest.mark.parametrize("tags", ["<lora:x{}:0.2:1.3>", "<lora:x{}:te=0:unet=1>", "<lora:x{}:te=1.5:unet=0>", "<lora:x{}:1:1:2>"])
def test_multipliers_and_dyn(webui: WebUI, tags: str) -> None:
    webui.load("finetune")
    fitted = webui.draw(tags.replace("{}", ""))
    assert fitted.distance(webui.draw(tags.replace("{}", "-finetune"))) <= SAME


def test_the_same_file_twice(webui: WebUI) -> None:
    webui.load("finetune")
    same(webui, "finetune", "<lora:x{}:0.4><lora:x{}:0.8>")


@pytest.mark.parametrize("limits", [{}, {"lora_in_memory_limit": 4}, {"sd_checkpoints_limit": 2}], ids=str)
def test_switching_checkpoints_with_the_same_prompt(webui: WebUI, limits: dict[str, int]) -> None:
    """The host keeps the network as it is when only the checkpoint changes."""
    webui.options(**limits)
    try:
        order = (("finetune", 1), ("pruned", 1), ("finetune", 0.5), ("base", 1), ("finetune", 1), ("base", 0.5))
        fitted = []
        for checkpoint, weight in order:
            webui.load(checkpoint)
            fitted.append(webui.draw(f"<lora:x:{weight}>"))
        for (checkpoint, weight), drawn in zip(order, fitted, strict=True):
            webui.load(checkpoint)
            assert drawn.distance(webui.draw(f"<lora:x-{checkpoint}:{weight}>")) <= SAME, (checkpoint, weight)
    finally:
        webui.options(**dict.fromkeys(limits, 1 if "sd_checkpoints_limit" in limits else 0))


def test_a_checkpoint_for_one_request(webui: WebUI) -> None:
    override = {"override_settings": {"sd_model_checkpoint": "pruned"}}
    same(webui, "pruned", "<lora:x{}:1>", **override)
    same(webui, "base", "<lora:x{}:1>")


def test_lora_functional(webui: WebUI) -> None:
    webui.load("finetune")
    webui.options(lora_functional=True)
    try:
        same(webui, "finetune", "<lora:x{}:1>")
        same(webui, "finetune", "<lora:x{}:1><lora:y{}:0.5>")
    finally:
        webui.options(lora_functional=False)


@needs_fp8
@pytest.mark.parametrize("cached", [False, True])
def test_fp8_storage(webui: WebUI, cached: bool) -> None:
    webui.load("finetune")
    webui.options(fp8_storage="Enable", cache_fp16_weight=cached)
    try:
        drawn = same(webui, "finetune", "<lora:x{}:1>")
        assert "FP8 weight: Enable" in drawn.infotext
        assert ("Cache FP16 weight for LoRA: True" in drawn.infotext) == cached
        same(webui, "finetune", "<lora:y{}:0.5><lora:x{}:1>")
    finally:
        webui.options(fp8_storage="Disable", cache_fp16_weight=False)


def test_hires_fix(webui: WebUI) -> None:
    webui.load("finetune")
    hires = webui.hires()
    same(webui, "finetune", "<lora:x{}:1>", **hires)
    same(webui, "finetune", "<lora:y{}:1>", **hires, hr_prompt="cat face")
    same(webui, "finetune", "<lora:x{}:1>", **hires, hr_checkpoint_name="finetune")


def test_hires_fix_on_another_checkpoint(webui: WebUI) -> None:
    """The network is fitted to each pass's checkpoint; a plain LoRA is named for each pass."""
    webui.load("base")
    hires = webui.hires() | {"hr_checkpoint_name": "finetune"}
    fitted = webui.draw("<lora:x:1>", **hires)
    plain = webui.draw("<lora:x-base:1>", **hires, hr_prompt="cat face <lora:x-finetune:1>")
    assert fitted.distance(plain) <= SAME


def test_img2img(webui: WebUI) -> None:
    webui.load("finetune")
    start = webui.draw(prompt="red apple").encoded
    same(webui, "finetune", "<lora:x{}:1>", job="img2img", init_images=[start], denoising_strength=0.8)


def test_batch(webui: WebUI) -> None:
    webui.load("pruned")
    assert len(same(webui, "pruned", "<lora:x{}:1>", batch_size=2, n_iter=2).pictures) >= 4


def test_infotext_round_trip(webui: WebUI) -> None:
    webui.load("finetune")
    drawn = webui.draw("<lora:x:0.8>")
    shorthash = builders.header(webui.loras / "x.safetensors")["sshs_model_hash"][:12]
    assert f'Lora hashes: "x: {shorthash}"' in drawn.infotext
    try:
        webui.call("sdapi/v1/txt2img", {"infotext": webui.draw().infotext})
    except HTTPError:
        pytest.skip("this WebUI's API takes no infotext, not even one without a LoRA")
    again = webui.call("sdapi/v1/txt2img", {"infotext": drawn.infotext})
    webui.draw()
    assert again["images"] == [drawn.encoded]


def test_reload_ui(tmp_path: Path) -> None:
    """Scripts are loaded again, while networks and what they are applied to stay."""
    webui = WebUI(INSTALLATION, tmp_path)
    make(webui, STYLE, "x", SD1)
    with webui:
        webui.load("finetune")
        before = webui.draw("<lora:x:1>")
        for _ in range(2):
            webui.reload()
            assert webui.draw("<lora:x:1>").distance(before) == 0
        for checkpoint in ("pruned", "finetune"):
            webui.load(checkpoint)
            same(webui, checkpoint, "<lora:x{}:1>")
        assert webui.call("probe/hooks") == 1


def test_a_file_replaced_on_disk(webui: WebUI) -> None:
    """The host goes on with the old weights until another set of networks is used; a LoRA-X file is fitted and applied anew."""
    webui.load("finetune")
    file = webui.loras / "replaced.safetensors"
    shutil.copy(webui.loras / "x.safetensors", file)
    before = webui.draw("<lora:replaced:1>")
    shutil.copy(webui.loras / "y.safetensors", file.with_suffix(".new")).replace(file)
    os.utime(file)
    after = webui.draw("<lora:replaced:1>")
    assert before.distance(webui.draw("<lora:x-finetune:1>")) <= SAME
    assert after.distance(webui.draw("<lora:y-finetune:1>")) <= SAME
