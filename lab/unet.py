"""Trains the bases: from nothing, on from another, or distilled into fewer blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from lab import data, xl
from lab.loop import train
from lab.models import Captioner, Model, noise_schedule, pruned_from
from lab.xl import XLModel
from lab.zoo import FINETUNES
from lorax.runner.vae import encode

BATCH = 64
DROP_CAPTION = 0.1  # for classifier-free guidance


M = TypeVar("M", bound=nn.Module)  # Model or XLModel


class Batches:
    """Random (noisy latents, times, token ids, noise) of an icon collection, every icon encoded once."""

    def __init__(self, icons: data.Icons, vae: AutoencoderKL, captioner: Captioner) -> None:
        self.latents = encode(vae, icons.pixels())
        self.tokens = captioner(icons.captions)
        self.no_caption = captioner([""])
        self.schedule = noise_schedule()

    def draw(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = torch.randint(len(self.latents), (size,))
        latents = self.latents[rows]
        tokens = torch.where(torch.rand(size, 1) < DROP_CAPTION, self.no_caption, self.tokens[rows])
        noise, times = torch.randn_like(latents), torch.randint(1000, (size,))
        return self.schedule.add_noise(latents, noise, times), times, tokens, noise


def train_from_nothing(
    name: str, folder: Path, model: M, vae: AutoencoderKL, captioner: Captioner, *, steps: int, seed: int
) -> M:
    """Train a whole model, new or continued, on the icons of the bases.

    Channels last is a fifth faster on a CPU, but crashes (torch 2.13) where convolutions are frozen, as in the models below.
    """
    model = model.train().requires_grad_(True).to(memory_format=torch.channels_last)  # a runner's is frozen
    batches = Batches(data.load_common(*data.names("base")), vae, captioner)
    return train(name, folder, model, denoising_loss(model, batches), steps=steps, rate=1.2e-3, seed=seed)


def train_finetune(name: str, folder: Path, base: Model, vae: AutoencoderKL, captioner: Captioner, steps: int) -> Model:
    """The base trained on towards other icon sets: what community checkpoints are.

    Only the transformers are trained, which are what a LoRA touches; the rest stays the base's, so that the file is small.
    """
    recipe, model = FINETUNES[name], copy.deepcopy(base).train().requires_grad_(False)
    for key, parameter in model.unet.named_parameters():
        parameter.requires_grad_("attentions" in key)
    batches = Batches(data.load_common(*recipe.sets), vae, captioner)
    loss_of, seed = denoising_loss(model, batches), recipe.seed
    return train(name, folder, model, loss_of, steps=steps, rate=recipe.rate, seed=seed, decay=0.99)


def train_pruned(folder: Path, base: Model, vae: AutoencoderKL, captioner: Captioner, steps: int) -> Model:
    """The base without every second block, distilled from it: what small-sd is to SD 1.5.

    Trained are the transformers and the upper three levels of the way up; the rest stays the base's, so that the file is small.
    """
    student = Model(copy.deepcopy(base.text_encoder), pruned_from(base.unet)).requires_grad_(False)
    for name, parameter in student.unet.named_parameters():
        parameter.requires_grad_("attentions" in name or name.startswith(("up_blocks.1", "up_blocks.2", "up_blocks.3")))
    return _distilled("pruned", folder, base, student, vae, captioner, steps, seed=3)


def train_xl_pruned(folder: Path, base: XLModel, vae: AutoencoderKL, captioner: Captioner, steps: int) -> XLModel:
    """The base without the blocks that SSD-1B lacks, its transformers distilled from it."""
    encoders = copy.deepcopy(base.text_encoder), copy.deepcopy(base.text_encoder_2)
    student = XLModel(*encoders, xl.pruned_from(base.unet)).requires_grad_(False)
    for name, parameter in student.unet.named_parameters():
        parameter.requires_grad_("attentions" in name)
    return _distilled("xl-pruned", folder, base, student, vae, captioner, steps, seed=6)


def _distilled(
    name: str, folder: Path, teacher: M, student: M, vae: AutoencoderKL, captioner: Captioner, steps: int, seed: int
) -> M:
    teacher = teacher.eval().requires_grad_(False)
    student = student.train()
    batches = Batches(data.load_common(*data.names("base")), vae, captioner)

    def loss_of(step: int) -> torch.Tensor:
        noisy, times, tokens, noise = batches.draw(BATCH)
        predicted = student(noisy, times, tokens)
        with torch.no_grad():
            taught = teacher(noisy, times, tokens)
        return F.mse_loss(predicted, noise) + F.mse_loss(predicted, taught)

    return train(name, folder, student, loss_of, steps=steps, rate=1e-3, seed=seed, decay=0.99)


def denoising_loss(model: nn.Module, batches: Batches, batch: int = BATCH) -> Callable[[int], torch.Tensor]:
    def loss_of(step: int) -> torch.Tensor:
        noisy, times, tokens, noise = batches.draw(batch)
        return F.mse_loss(model(noisy, times, tokens), noise)

    return loss_of
