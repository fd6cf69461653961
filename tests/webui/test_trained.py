"""Adapters that were trained as LoRA-X draw alike in a real WebUI in each of their forms."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab import writing
from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE
from lorax.formats import open_adapter
from lorax.runner import Runner
from lorax.subspace import RankRule
from lorax.training import Settings, inject, save
from lorax.training.files import FACTORS, PLAIN, SMALL
from lorax.transfer import plan, run
from lorax.workflow.fitting import settings
from tests import builders
from tests.webui.checkout import needs_webui
from tests.webui.drawing import OTHER, SAME, message
from tests.webui.server import WebUI

pytestmark = needs_webui


@pytest.fixture(scope="module")
def trained(started: WebUI) -> WebUI:
    """The WebUI with the files ``small`` and ``factors``, and the plain LoRAs ``trained-base`` and ``trained-finetune``."""
    bases = {name: open_checkpoint(started.checkpoints / f"{name}.safetensors") for name in (BASE, FINETUNE)}
    runner, generator = Runner(bases[BASE].path), torch.Generator().manual_seed(0)
    network = inject(bases[BASE], runner.unet, [runner.text_encoder], settings=Settings("diagonal", rank=RankRule("25%")))
    for dS in network.parameters():
        dS.data = torch.randn(dS.shape, generator=generator) * 0.3
    for form, name in ((SMALL, "small"), (FACTORS, "factors"), (PLAIN, "trained-base")):
        save(network, started.loras / f"{name}.safetensors", form, dtype="fp32")
    small = open_adapter(started.loras / "small.safetensors")
    planned = plan(small, bases[BASE], bases[FINETUNE], settings(small)[0])
    writing.write(planned, run(planned), started.loras / "trained-finetune.safetensors", dtype="fp32")
    return started


@pytest.mark.parametrize("form", ["small", "factors"])
@pytest.mark.parametrize("checkpoint", [BASE, FINETUNE])
def test_a_form_draws_what_the_plain_lora_draws(trained: WebUI, checkpoint: str, form: str) -> None:
    trained.load(checkpoint)
    fitted = trained.draw(f"<lora:{form}:1>")
    assert not fitted.messages
    assert fitted.distance(trained.draw(f"<lora:trained-{checkpoint}:1>")) <= SAME
    assert fitted.distance(trained.draw()) >= OTHER


def test_the_small_form_names_the_source_that_it_lacks(trained: WebUI) -> None:
    file = trained.loras / "small.safetensors"
    save_file(load_file(file), file.with_stem("small-orphan"), builders.header(file) | {"another": "file"})  # not in the cache
    trained.load(FINETUNE)
    source = trained.checkpoints / f"{BASE}.safetensors"
    source.rename(trained.data / source.name)
    trained.call("sdapi/v1/refresh-checkpoints", {})
    try:
        assert source.name in message(trained, "<lora:small-orphan:1>")
    finally:
        (trained.data / source.name).rename(source)
        trained.call("sdapi/v1/refresh-checkpoints", {})
