"""The committed models: whole checkpoints from them, models to train on, and the files themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from lab import ldm
from lab.models import Model
from lab.paths import CACHE, CHECKPOINTS, HEADLINE, MODELS
from lab.xl import XLModel
from lab.zoo import XL, XL_PRUNED, checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED, SHARED, SIBLING, unpack
from lorax.runner import Runner


def runner_of(base: str) -> Runner:
    """A committed base."""
    tokenizer = unpack(CHECKPOINTS)
    if base not in (BASE, FINETUNE, PRUNED):
        unpack(CHECKPOINTS, HEADLINE)
    return Runner(checkpoint(base), tokenizer)


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


def write_headline(models: Mapping[str, Model | XLModel], autoencoder: AutoencoderKL) -> None:
    """Every one shares the base's autoencoder; the pruned XL shares with XL."""
    unpack(CHECKPOINTS)
    states = {name: _half(model, autoencoder) for name, model in models.items()}
    for name, model in models.items():
        sibling = (XL, states[XL]) if name == XL_PRUNED else (BASE, load_file(checkpoint(BASE)))
        _write(HEADLINE, name, model, autoencoder, states[name], *sibling)
    ldm.save_config(models[XL].text_encoder_2, HEADLINE / "tokenizer" / "config_2.json")


def _half(model: Model | XLModel, autoencoder: AutoencoderKL) -> dict[str, torch.Tensor]:
    return {key: value.half() for key, value in ldm.state_of(model, autoencoder).items()}


def _write(
    folder: Path, name: str, model: Model | XLModel, autoencoder: AutoencoderKL, state: dict[str, torch.Tensor], *sibling
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pack(folder / f"{name}.safetensors", state, *sibling)
    (folder / f"{name}.yaml").write_text(ldm.config_of(model, autoencoder), encoding="utf-8")


def pack(
    path: Path, tensors: dict[str, torch.Tensor], sibling: str | None = None, its: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Store a model without the tensors that the model called ``sibling`` has too, under whatever name."""
    content = {_fingerprint(value): key for key, value in (its or {}).items()}
    shared = {key: content[mark] for key, value in tensors.items() if (mark := _fingerprint(value)) in content}
    own = {key: value.contiguous() for key, value in tensors.items() if key not in shared}
    described = {SIBLING: sibling, SHARED: json.dumps(shared)} if sibling and shared else {}
    save_file(own, path, {"format": "pt"} | described)


def _fingerprint(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.contiguous().numpy().tobytes()
