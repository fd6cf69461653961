"""Trains a style on a model as a LoRA or a LoCon, and saves it as kohya's trainer would."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from lab import data
from lab.loop import train
from lab.models import Captioner, Model
from lab.unet import Batches, denoising_loss
from lorax.adapter import LowRank
from lorax.checkpoint import Checkpoint
from lorax.formats.writer import encode

BATCH = 32
ATTENTION = r"to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out"
CONVOLUTION = r"conv1|conv2|conv_shortcut|time_emb_proj|(down|up)samplers\.0\.conv"
TEXT = r"[qkv]_proj|out_proj|fc1|fc2"


@dataclass(frozen=True)
class Style:
    """A style that no base has seen, and how it is learned."""

    icons: str  # the icon set
    rank: int
    alpha: float
    steps: int
    rate: float
    convolution: bool = False


STYLES = {
    "contrast": Style("contrast", rank=4, alpha=4, steps=500, rate=3e-3),
    "openmoji": Style("openmoji", rank=4, alpha=2, steps=250, rate=2e-3, convolution=True),
}


def train_lora(
    name: str, folder: Path, base: Model, style: Style, vae: AutoencoderKL, captioner: Captioner, *, seed: int
) -> Model:
    """Learn the style's icons, those held out excepted. Returns the model with the trained adapter inside."""
    torch.manual_seed(seed)
    model = copy.deepcopy(base).train().requires_grad_(False)
    layers = f"{ATTENTION}|{CONVOLUTION}" if style.convolution else ATTENTION
    for part, targets in ((model.unet, rf".*\.({layers})"), (model.text_encoder, rf".*\.({TEXT})")):
        config = LoraConfig(r=style.rank, lora_alpha=int(style.alpha), target_modules=targets)
        inject_adapter_in_model(config, part)
    icons = data.load_common(style.icons)
    icons = icons.where([not data.is_held_out(subject) for subject in icons.subjects])
    loss = denoising_loss(model, Batches(icons, vae, captioner), BATCH)
    return train(
        name, folder, model, loss, steps=style.steps, rate=style.rate, seed=seed, decay=0.99, weight_decay=0.0, warmup=20
    )


def save_lora(path: Path, model: Model, base: Checkpoint, style: Style) -> None:
    """Write the adapter inside ``model`` with kohya's keys and the ``ss_*`` metadata that its trainer writes."""
    tensors = {}
    for prefix, part in (("unet", model.unet), ("te", model.text_encoder)):
        state = get_peft_model_state_dict(part)
        for key in state:
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removesuffix(".lora_A.weight")
            path_in_base = base.unet_names.to_ldm(name) if prefix == "unet" else f"text_model.{name.removeprefix('text_model.')}"
            up, down = state[f"{name}.lora_B.weight"], state[key]
            delta = LowRank(up.flatten(1), down.flatten(1), style.alpha / style.rank)
            tensors |= encode(base, f"{prefix}.{path_in_base}", delta, torch.float16)
    arguments = {"conv_dim": str(style.rank), "conv_alpha": str(style.alpha)} if style.convolution else {}
    metadata = {
        "ss_base_model_version": base.family.base_version,
        "ss_v2": str(base.family.v2),
        "ss_sd_model_name": base.path.name,
        "ss_new_sd_model_hash": base.sha256,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(style.rank),
        "ss_network_alpha": str(style.alpha),
        "ss_network_args": json.dumps(arguments),
        "ss_output_name": path.stem,
        "ss_resolution": f"({data.SIZE}, {data.SIZE})",
        "ss_steps": str(style.steps),
        "ss_learning_rate": str(style.rate),
        "ss_tag_frequency": json.dumps({style.icons: {}}),
        "ss_training_comment": f"icons of {data.SETS[style.icons].package}, {data.SETS[style.icons].licence}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
