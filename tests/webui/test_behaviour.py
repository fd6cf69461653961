"""In a real WebUI, methods that run the models run the host's own, which compute what diffusers' do."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorax.demo import bundle
from lorax.runner import Runner
from tests.webui.computed import computed
from tests.webui.page import HEADLINE, LORA, Page
from tests.webui.server import needs_webui

pytestmark = needs_webui

XL, XL_PRUNED = "xl", "xl-pruned"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's checkpoints with all that diffusers needs beside them."""
    folder = tmp_path_factory.mktemp("diffusers")
    bundle.unpack(folder)
    bundle.unpack(folder, HEADLINE)
    return folder


@pytest.mark.parametrize("base", [bundle.BASE, bundle.PRUNED, XL, XL_PRUNED])
def test_the_hosts_model_computes_what_diffusers_does(ui: Page, folder: Path, base: str) -> None:
    lora = HEADLINE / "loras" / f"openmoji-r4-{base}.safetensors"
    ui.load(bundle.BASE)
    ui.draw(f"<lora:{LORA}:1>", steps=1)  # which must not stay in the weights
    try:
        found = load_file(ui.call("probe/compute", {"base": str(ui.checkpoints / f"{base}.safetensors"), "lora": str(lora)}))
        assert [base["name"] for base in ui.call("lorax/v1/bases") if base["loaded"]] == ["base.safetensors"]
    finally:
        ui.load(bundle.FINETUNE)
    expected = computed(Runner(folder / f"{base}.safetensors"), lora)
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for name, value in expected.items() if name.startswith("gradient"))
    for name, value in expected.items():
        scale = max(float(value.norm()), largest / 100 if name.startswith("gradient") else 0)
        if not (found[name] - value).norm() <= 1e-4 * scale:
            print((found[name] - value).norm() / scale, scale, name)
    for name, value in expected.items():
        scale = max(float(value.norm()), largest / 100 if name.startswith("gradient") else 0)
        assert (found[name] - value).norm() <= 1e-4 * scale, name
