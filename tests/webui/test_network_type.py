"""In a real WebUI, ``<lora:x:1>`` with a LoRA-X file draws what the plain LoRA draws that is saved for the same checkpoint.

Needs ``LORAX_WEBUI_DIR``: a WebUI v1.10.1 with its ``venv``. Each test asks for the same pictures with the LoRA-X file ``x`` and
with the plain LoRAs ``x-base``, ``x-finetune`` and ``x-pruned``, which are saved beforehand as the tab saves them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import open_checkpoint
from lorax.demo import bundle
from lorax.formats import open_adapter, writer
from lorax.formats.lorax_writer import save_lorax
from lorax.options import Options
from lorax.transfer import plan, run
from tests import builders
from tests.webui.server import Drawn, WebUI

INSTALLATION = os.environ.get("LORAX_WEBUI_DIR", "")
pytestmark = pytest.mark.skipif(not INSTALLATION, reason="LORAX_WEBUI_DIR is not set: the tests in a real WebUI are not run")

CHECKPOINTS = (bundle.BASE, bundle.FINETUNE, bundle.PRUNED)
STYLE = bundle.BUNDLE / "loras" / f"{bundle.STYLE}-base.safetensors"
# A method whose result is far from the plain copy by name, so that the two are told apart.
OPTIONS = Options("lorax", rank="30%", threshold=0.0)
SAME, OTHER = 1, 8  # grey levels: the same picture, and another one


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    webui = WebUI(Path(INSTALLATION), tmp_path_factory.mktemp("webui"), "--nowebui")
    make(webui, STYLE, "x", OPTIONS)
    make(webui, noise(webui.data / "noise.safetensors"), "y", OPTIONS)
    with webui:
        yield webui


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> None:
    """Each test begins with the base loaded and no network applied."""
    if "webui" in request.fixturenames:
        webui = request.getfixturevalue("webui")
        webui.load("base")
        webui.draw(steps=1)


def make(webui: WebUI, lora: Path, name: str, options: Options) -> None:
    """The LoRA-X file, and the plain LoRAs that a transfer from it writes. On its own source it is the LoRA itself."""
    bases = {checkpoint: open_checkpoint(webui.checkpoints / f"{checkpoint}.safetensors") for checkpoint in CHECKPOINTS}
    base, file = bases[bundle.BASE], webui.loras / f"{name}.safetensors"
    save_lorax(plan(open_adapter(lora), base, base, options), file)
    shutil.copy(lora, webui.loras / f"{name}-base.safetensors")
    for checkpoint in CHECKPOINTS[1:]:
        planned = plan(open_adapter(file), base, bases[checkpoint], options)
        writer.write(planned, run(planned), webui.loras / f"{name}-{checkpoint}.safetensors")


def noise(path: Path) -> Path:
    """Another LoRA: that of the style with random factors of the same sizes."""
    made = torch.Generator().manual_seed(3)
    tensors = load_file(STYLE)
    for key, value in tensors.items():
        if not key.endswith("alpha"):
            tensors[key] = torch.randn(value.shape, generator=made).to(value) * value.float().std()
    save_file(tensors, path, {"ss_output_name": "y-base"})
    return path


def same(webui: WebUI, checkpoint: str, tags: str, **more: object) -> Drawn:
    """Draw with LoRA-X files and with plain LoRAs, in that order; ``{}`` in ``tags`` is where their names differ."""
    fitted = webui.draw(tags.replace("{}", ""), **more)
    plain = webui.draw(tags.replace("{}", f"-{checkpoint}"), **more)
    assert not fitted.messages
    assert fitted.distance(plain) <= SAME
    assert fitted.distance(webui.draw(**more)) >= OTHER
    return fitted


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_one_network(webui: WebUI, checkpoint: str) -> None:
    webui.load(checkpoint)
    same(webui, checkpoint, "<lora:x{}:1>")


def test_it_is_not_the_copy_by_name(webui: WebUI) -> None:
    webui.load("finetune")
    assert webui.draw("<lora:x:1>").distance(webui.draw("<lora:x-base:1>")) >= OTHER


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
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "hr_second_pass_steps": 2}
    same(webui, "finetune", "<lora:x{}:1>", **hires)
    same(webui, "finetune", "<lora:y{}:1>", **hires, hr_prompt="cat face")
    same(webui, "finetune", "<lora:x{}:1>", **hires, hr_checkpoint_name="finetune")


def test_hires_fix_on_another_checkpoint(webui: WebUI) -> None:
    """The network is fitted to each pass's checkpoint; a plain LoRA is named for each pass."""
    webui.load("base")
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "hr_second_pass_steps": 2}
    hires |= {"hr_checkpoint_name": "finetune"}
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


def message(webui: WebUI, tags: str) -> str:
    """Of a network that is not applied: the picture is the one without it, and the output says why."""
    drawn = webui.draw(tags)
    assert drawn.distance(webui.draw()) == 0
    return drawn.messages


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lorax_format": "9"}, "a LoRA-X file of format 9; this version reads up to format 1. Update the extension."),
        ({"lorax_family": "sdxl"}, "made for Stable Diffusion XL, but"),
        ({"lorax_format": None}, "the header of this LoRA-X file is damaged"),
        ({"lorax_settings": None}, "the header of this LoRA-X file is damaged"),
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


@pytest.mark.parametrize("limit", [0, 4])
def test_switching_to_another_family_and_back(webui: WebUI, limit: int) -> None:
    """What tells the other family from SD 1.x here is a linear projection. Its layers have the same names."""
    state = load_file(webui.checkpoints / "base.safetensors")
    for key in state:
        if re.fullmatch(r"model\.diffusion_model\..*\.proj_(in|out)\.weight", key):
            state[key] = state[key].flatten(1)
    save_file(state, webui.checkpoints / "other.safetensors")
    config = (webui.data / "v1-inference.yaml").read_text().replace("legacy:", "use_linear_in_transformer: true\n        legacy:")
    (webui.checkpoints / "other.yaml").write_text(config)
    webui.call("sdapi/v1/refresh-checkpoints", {})
    webui.options(lora_in_memory_limit=limit)
    try:
        for _ in range(2):
            webui.load("other")
            assert "made for Stable Diffusion 1.x, but" in message(webui, "<lora:x:1>")
            webui.load("finetune")
            same(webui, "finetune", "<lora:x{}:1>")
    finally:
        webui.options(lora_in_memory_limit=0)


def test_interrupting_the_fit(webui: WebUI) -> None:
    """Progress is shown, Interrupt ends it, and the next prompt fits the file from the start."""
    webui.load("finetune")
    file = webui.loras / "slow.safetensors"
    with ThreadPoolExecutor() as pool:
        for attempt in range(20):  # the bundled models are small: the fit may be over before the request arrives
            save_file(load_file(webui.loras / "x.safetensors"), file, builders.header(file.with_stem("x")) | {"n": str(attempt)})
            drawn = pool.submit(webui.draw, "<lora:slow:1>")
            while not drawn.done():
                if "LoRA-X: fitting slow, layer " in (webui.call("sdapi/v1/progress")["textinfo"] or ""):
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


def test_infotext_round_trip(webui: WebUI) -> None:
    webui.load("finetune")
    drawn = webui.draw("<lora:x:0.8>")
    shorthash = builders.header(webui.loras / "x.safetensors")["sshs_model_hash"][:12]
    assert f'Lora hashes: "x: {shorthash}"' in drawn.infotext
    again = webui.call("sdapi/v1/txt2img", {"infotext": drawn.infotext})
    webui.draw()
    assert again["images"] == [drawn.encoded]


def test_reload_ui(tmp_path: Path) -> None:
    """Scripts are loaded again, while networks and what they are applied to stay."""
    webui = WebUI(Path(INSTALLATION), tmp_path)
    make(webui, STYLE, "x", OPTIONS)
    with webui:
        webui.load("finetune")
        before = webui.draw("<lora:x:1>")
        for _ in range(2):
            webui.reload()
            assert webui.draw("<lora:x:1>").distance(before) == 0
        for checkpoint in ("pruned", "finetune"):
            webui.load(checkpoint)
            same(webui, checkpoint, "<lora:x{}:1>")
        assert webui.call("probe/network-types").count("ModuleTypeLorax") == 1


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
