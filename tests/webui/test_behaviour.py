"""Methods that run the models run a real WebUI's own, which compute what diffusers' do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorax.demo import bundle
from lorax.runner import Runner
from tests.lab_models import HEADLINE, committed
from tests.ui.chromium import pick
from tests.webui.checkout import needs_model, needs_webui
from tests.webui.computed import computed
from tests.webui.page import AT_ONCE, LORA, Page, by_method, moved, open_options, shoot, stopped, tab
from tests.webui.server import PATIENCE, ROOT, Drawn

pytestmark = needs_webui

XL, XL_PRUNED = "xl", "xl-pruned"
SAME = 3  # grey levels
LONG = 3 * PATIENCE  # seconds in which the models were run, also on a busy machine
MANY = 128  # pictures; the WebUI keeps what the source draws, so that a second test with so many need not wait for them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's checkpoints with all that diffusers needs beside them."""
    folder = tmp_path_factory.mktemp("diffusers")
    bundle.unpack(folder)
    bundle.unpack(folder, HEADLINE)
    return folder


def apart(a: Drawn, b: Drawn) -> float:
    """Distance of two pictures in grey levels, on average."""
    return float(abs(a.pictures - b.pictures).mean())


def loaded(ui: Page) -> list[str]:
    return [base["name"] for base in ui.call("lorax/v1/bases") if base["loaded"]]


@needs_model
@pytest.mark.parametrize("base", [bundle.BASE, bundle.PRUNED, XL])
def test_the_hosts_model_computes_what_diffusers_does(ui: Page, folder: Path, base: str) -> None:
    lora = committed(f"openmoji-r4-{base}")
    ui.load(bundle.BASE)
    ui.draw(f"<lora:{LORA}:1>", steps=1)  # which must not stay in the weights
    try:
        found = load_file(ui.call("probe/compute", {"base": str(ui.checkpoints / f"{base}.safetensors"), "lora": str(lora)}))
        assert loaded(ui) == ["base.safetensors"]
    finally:
        ui.load(bundle.FINETUNE)
    expected = computed(Runner(folder / f"{base}.safetensors"), lora)
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for name, value in expected.items() if name.startswith("gradient"))
    for name, value in expected.items():
        scale = max(float(value.norm()), largest / 100 if name.startswith("gradient") else 0)
        assert (found[name] - value).norm() <= 1e-4 * scale, name


@needs_model
def test_a_checkpoint_that_was_replaced_under_its_name_is_run(ui: Page) -> None:
    """The host compares names, and would go on with the weights that it has loaded."""
    file, lora = ui.checkpoints / "replaced.safetensors", str(committed(LORA))
    try:
        for name in (bundle.FINETUNE, bundle.BASE):
            shutil.copyfile(ui.checkpoints / f"{name}.safetensors", file)
            ui.call("sdapi/v1/refresh-checkpoints", {})
            if name == bundle.FINETUNE:
                ui.load("replaced")
            found = load_file(ui.call("probe/compute", {"base": str(file), "lora": lora}))["alone"].clone()  # of one file
            expected = ui.call("probe/compute", {"base": str(ui.checkpoints / f"{name}.safetensors"), "lora": lora})
            assert torch.equal(found, load_file(expected)["alone"]), name
    finally:
        ui.load(bundle.FINETUNE)
        file.unlink()
        ui.call("sdapi/v1/refresh-checkpoints", {})


def ask(page: Any, **running: int) -> None:
    open_options(page)
    for name, value in running.items():
        field = page.locator(f"#lorax_{name} input[type=number], #lorax_{name} textarea, #lorax_{name} input[type=text]").first
        field.fill(str(value))
        field.blur()


@contextmanager
def outside(folder: Path, *arguments: object) -> Iterator[None]:
    """Run the command line beside the block, on a core of its own; by the end of the block it is done."""
    said, one_core = folder / "said.txt", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with said.open("w") as output:
        command = [sys.executable, "-m", "lorax", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | one_core, stdout=output, stderr=output)
    try:
        yield
        assert process.wait(LONG) == 0, said.read_text()
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("target", "method", "pictures", "save_as", "button"),
    [
        (XL, "refine", 16, "lora", "refine"),
        (bundle.FINETUNE, "refine", 16, "lora", "refine"),  # on what the source predicts
        (XL, "bridge", 16, "lora-x", "bridge"),
        (bundle.PRUNED, "bridge", MANY, "lora", "move"),
    ],
)
def test_the_tab_moves_what_the_command_line_does(
    browser: Any, ui: Page, folder: Path, tmp_path: Path, target: str, method: str, pictures: int, save_as: str, button: str
) -> None:
    """By the buttons of the verdict; and between relatives, for which bridge is not offered, by the method's name."""
    tag = f"<lora:{LORA}-{target}{'-lorax' if save_as == 'lora-x' else ''}:1>"
    # What diffusers finds outside the host, with the LoRA's card, which names its trigger words.
    lora, told = ui.loras / f"{LORA}.safetensors", tmp_path / f"told-{target}-{method}.safetensors"
    bases = [f"--{role}={folder / name}.safetensors" for role, name in (("source", bundle.BASE), ("target", target))]
    asked = [f"--method={method}", f"--pictures={pictures}", "--steps=8", f"--output={told}"]
    with outside(tmp_path, "transfer", lora, *bases, *asked), tab(browser, ui, f"{target}.safetensors") as page:
        page.set_default_timeout(1000 * LONG)
        ask(page, pictures=pictures, steps=8)
        pick(page, "#lorax_save_as", save_as)
        if button == "move":
            by_method(page, method)
        moved(page, button)
        shoot(page, f"{method}-{target}")
        assert page.input_value("#lorax_tag textarea") == f"{tag} in contrast"
    assert loaded(ui) == ["finetune.safetensors"]
    assert ui.call("sdapi/v1/options")["sd_model_checkpoint"].startswith(bundle.FINETUNE)  # a hash may follow the name

    shutil.copy(told, ui.loras)
    ui.load(target)
    try:
        here, expected, alone = (ui.draw(one) for one in (tag, f"<lora:{told.stem}:1>", ""))
    finally:
        ui.load(bundle.FINETUNE)
        for path in (*ui.loras.glob(f"{LORA}-{target}*"), *ui.loras.glob(f"{told.stem}*")):
            path.unlink()  # other tests count on no file by these methods
    # With few pictures, a millionth more or less in what a model gives moves single pixels of what bridge finds by 30 levels.
    assert apart(here, expected) < min(SAME, 0.1 * apart(here, alone))


@pytest.mark.parametrize(
    ("button", "moment", "running"),
    [
        ("refine", "drawing pictures", {"pictures": 384}),
        ("refine", "training", {"pictures": 16, "steps": 1000}),
        ("bridge", "fitting", {"pictures": MANY}),
    ],
)
def test_interrupt_leaves_all_as_it_was(browser: Any, ui: Page, button: str, moment: str, running: dict[str, int]) -> None:
    with tab(browser, ui, f"{XL}.safetensors") as page:
        before, picture = sorted(ui.loras.rglob("*")), ui.draw()
        ask(page, **running)
        page.click(f"#lorax_{button}")
        page.wait_for_selector(f"#lorax_progress :text('{moment}')")
        shoot(page, moment.replace(" ", "-"))
        assert stopped(page, "Nothing was written") < AT_ONCE
    assert sorted(ui.loras.rglob("*")) == before
    assert loaded(ui) == ["finetune.safetensors"]
    assert ui.draw().distance(picture) == 0


@needs_model
def test_a_target_that_the_host_cannot_load_is_named(browser: Any, ui: Page) -> None:
    """The host takes each pruned SDXL for SSD-1B."""
    with tab(browser, ui, f"{XL_PRUNED}.safetensors") as page:
        ask(page, pictures=16)
        by_method(page, "refine")
        moved(page)
        assert f"{XL_PRUNED}.safetensors: the WebUI cannot load it" in page.inner_text("#lorax_written")
    assert loaded(ui) == ["finetune.safetensors"]


@needs_model
def test_a_source_that_the_host_cannot_read_leaves_all_as_it_was(ui: Page) -> None:
    """The host has taken apart by then what was loaded, which does not weight words any more."""
    weighted = "(cat face:1.5), [sun]"
    picture, lora = ui.draw(prompt=weighted), committed(LORA)
    ui.draw(steps=1)  # the host keeps what it made of the last prompt's words
    base = ui.checkpoints / f"{bundle.BASE}.safetensors"
    said = ui.call("probe/compute", {"base": str(base), "lora": str(lora), "unread": True})
    assert said == f"{base}: not enough memory to load it. Close other programs, and try again."
    assert loaded(ui) == ["finetune.safetensors"]
    assert ui.draw(prompt=weighted).distance(picture) == 0
