"""The committed models: whole checkpoints from them, models to train on, and the files themselves."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lab import data, ldm
from lab.models import Model
from lab.packing import pack
from lab.paths import CACHE, CHECKPOINTS, EXTRA_LORAS, HEADLINE, LORAS, MODELS, appearing
from lab.xl import XLModel
from lab.zoo import UNCOMMITTED, XL, XL_PRUNED, checkpoint
from lorax.demo.bundle import BASE, CAPTIONS, FINETUNE, ORIGIN, PACKED, PRUNED, unpack, unpack_file
from lorax.files import open_tensors
from lorax.runner import Runner


def runner_of(base: str) -> Runner:
    """A committed base, or one that was trained here."""
    tokenizer = unpack(CHECKPOINTS)
    if base not in (BASE, FINETUNE, PRUNED):
        unpack(CHECKPOINTS, HEADLINE)
    if not is_made(base):
        sys.exit(f"{checkpoint(base)} is not there: run `python -m lab {base}` first, which takes an hour.")
    return Runner(checkpoint(base), tokenizer)


def is_made(base: str) -> bool:
    """Whether a base can be drawn with: one that is not committed has to be trained here."""
    return base not in UNCOMMITTED or checkpoint(base).is_file()


def model_of(runner: Runner) -> Model | XLModel:
    """What is trained of a committed base."""
    if runner.text_encoder_2 is not None:
        return XLModel(runner.text_encoder, runner.text_encoder_2, runner.unet)
    return Model(runner.text_encoder, runner.unet)


def write_demo(models: Mapping[str, Model | XLModel], autoencoder: AutoencoderKL) -> None:
    states = {name: _half(model, autoencoder) for name, model in models.items()}
    _write(MODELS, BASE, models[BASE], autoencoder, states[BASE])
    for name in (FINETUNE, PRUNED):
        _write(MODELS, name, models[name], autoencoder, states[name], BASE, states[BASE])
    ldm.save_tokenizer(CACHE / "tokenizer", models[BASE].text_encoder, MODELS / "tokenizer")
    CAPTIONS.write_text("".join(f"{caption}\n" for caption in data.learned_from()), encoding="utf-8")


def write_headline(models: Mapping[str, Model | XLModel], autoencoder: AutoencoderKL) -> None:
    """Every one shares the base's autoencoder; the pruned XL shares with XL."""
    unpack(CHECKPOINTS)
    states = {name: _half(model, autoencoder) for name, model in models.items()}
    for name, model in models.items():
        sibling = (XL, states[XL]) if name == XL_PRUNED else (BASE, load_file(checkpoint(BASE)))
        _write(HEADLINE, name, model, autoencoder, states[name], *sibling)
    ldm.save_config(models[XL].text_encoder_2, HEADLINE / "tokenizer" / "config_2.json")


def write_finetune(name: str, model: Model, autoencoder: AutoencoderKL) -> None:
    """Store what a fine-tune adds to the committed base, whose structure it has."""
    sibling = BASE, load_file(checkpoint(BASE))
    pack(HEADLINE / f"{name}{PACKED}", _half(model, autoencoder), {"format": "pt"}, *sibling, added=True)
    shutil.copyfile(MODELS / f"{BASE}.yaml", HEADLINE / f"{name}.yaml")


def write_whole(name: str, model: Model | XLModel, autoencoder: AutoencoderKL) -> None:
    """Write the whole checkpoint of a base that is not committed, with the settings of the one whose structure it has."""
    unpack(CHECKPOINTS, HEADLINE)  # those settings name the tokenizer's folder only there
    shutil.copyfile(checkpoint(UNCOMMITTED[name]).with_suffix(".yaml"), checkpoint(name).with_suffix(".yaml"))
    with appearing(checkpoint(name)) as path:
        save_file(_half(model, autoencoder), path, {"format": "pt"})


def _half(model: Model | XLModel, autoencoder: AutoencoderKL) -> dict[str, torch.Tensor]:
    # A model that was trained in channels last has kernels that are not contiguous, which no file can hold.
    return {key: value.half().contiguous() for key, value in ldm.state_of(model, autoencoder).items()}


def _write(
    folder: Path, name: str, model: Model | XLModel, autoencoder: AutoencoderKL, state: dict[str, torch.Tensor], *sibling
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pack(folder / f"{name}{PACKED}", state, {"format": "pt"}, *sibling)
    (folder / f"{name}.yaml").write_text(ldm.config_of(model, autoencoder), encoding="utf-8")


def unpack_loras() -> None:
    """Put the committed LoRAs beside those that are trained here. One that was trained here stays as it is."""
    for packed in sorted((*LORAS.glob(f"*{PACKED}"), *(HEADLINE / "loras").glob(f"*{PACKED}"))):
        path = EXTRA_LORAS / packed.stem
        if not path.is_file() or ORIGIN in open_tensors(path).metadata:
            path.parent.mkdir(parents=True, exist_ok=True)
            unpack_file(packed, path)


def keep_lora(path: Path, packed: Path) -> None:
    """Pack a LoRA that was trained here, and unpack it in its place: what is measured is what is committed."""
    with safe_open(str(path), framework="pt") as file:
        pack(packed, load_file(path), file.metadata() or {})
    path.unlink()
    unpack_file(packed, path)
