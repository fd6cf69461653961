"""Pictures with LoRA-X files, and with the plain LoRAs that a transfer writes, which must be the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lab import writing
from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.demo import bundle
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import plan, run
from tests.lab_models import LORA
from tests.webui import narrow_open_clip, narrow_xl
from tests.webui.checkout import HAS_TYPES, INSTALLATION
from tests.webui.server import Drawn, WebUI

SD1 = (bundle.BASE, bundle.FINETUNE, bundle.PRUNED)
SDXL = (narrow_xl.XL, narrow_xl.RELATIVE, narrow_xl.PRUNED)
STYLE = LORA
# A method whose result is far from the plain copy by name, so that the two are told apart.
OPTIONS = Options("lorax", rank="30%", threshold=0.0)
SAME, OTHER = 1, 8  # grey levels: the same picture, and another one


def furnish(webui: WebUI) -> None:
    """The LoRA-X files ``x`` and ``y`` of SD 1.x and ``z`` of SDXL, and their plain LoRAs; SD 2.x, if the WebUI can draw it."""
    make(webui, STYLE, "x", SD1)
    make(webui, noise(webui.data / "noise.safetensors"), "y", SD1)
    make(webui, narrow_xl.write(INSTALLATION, webui.data, webui.checkpoints), "z", SDXL)
    if HAS_TYPES:
        narrow_open_clip.write(INSTALLATION, webui.data, webui.checkpoints)


def make(webui: WebUI, lora: Path, name: str, checkpoints: Iterable[str]) -> None:
    """The LoRA-X file ``name``, and for each checkpoint the plain LoRA ``name-checkpoint`` that a transfer from it writes.

    The first checkpoint is its source, where it is the LoRA itself.
    """
    source, *targets = ((one, open_checkpoint(webui.checkpoints / f"{one}.safetensors")) for one in checkpoints)
    file = webui.loras / f"{name}.safetensors"
    save_lorax(plan(open_adapter(lora), source[1], source[1], OPTIONS), file)
    shutil.copy(lora, webui.loras / f"{name}-{source[0]}.safetensors")
    for checkpoint, target in targets:
        planned = plan(open_adapter(file), source[1], target, OPTIONS)
        writing.write(planned, run(planned), webui.loras / f"{name}-{checkpoint}.safetensors")


def noise(path: Path) -> Path:
    """Write a LoRA like the style's, with random factors of the same sizes."""
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


def message(webui: WebUI, tags: str) -> str:
    """Draw with a network that is not applied; return what the output says. The picture is the one without it."""
    drawn = webui.draw(tags)
    assert drawn.distance(webui.draw()) == 0
    return drawn.messages
