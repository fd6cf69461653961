"""Trains a style or a concept on a base as a LoRA or a LoCon, and saves it as kohya's trainer would."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

from lab import data
from lab.loop import train
from lab.models import Captioner
from lab.unet import Batches, denoising_loss
from lab.zoo import Adapter
from lorax.checkpoint import Checkpoint, text_path
from lorax.low_rank import LowRank
from lorax.output.plain_lora import encode

ATTENTION = r"to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out"
CONVOLUTION = r"conv1|conv2|conv_shortcut|time_emb_proj|(down|up)samplers\.0\.conv"
TEXT = r"[qkv]_proj|out_proj|fc1|fc2"


def train_lora(
    folder: Path, base: nn.Module, adapter: Adapter, vae: AutoencoderKL, captioner: Captioner, *, name: str, seed: int
) -> nn.Module:
    """Learn the adapter's icons, those held out excepted. Returns the model with the trained adapter inside."""
    torch.manual_seed(seed)
    model = copy.deepcopy(base).train().requires_grad_(False)
    layers = f"{ATTENTION}|{CONVOLUTION}" if adapter.convolution else ATTENTION
    for part_name, part in model.named_children():
        if not adapter.touches(part_name):
            continue
        targets = rf".*\.({layers if part_name == 'unet' else TEXT})"
        inject_adapter_in_model(LoraConfig(r=adapter.rank, lora_alpha=adapter.rank, target_modules=targets), part)
    loss = denoising_loss(model, Batches(training_icons(adapter), vae, captioner), adapter.batch)
    settings = {"steps": adapter.steps, "rate": adapter.rate, "seed": seed, "decay": 0.99, "weight_decay": 0.0, "warmup": 20}
    return train(name, folder, model, loss, **settings)


def icon_sets(adapter: Adapter) -> list[str]:
    return [*data.names("base"), *data.names("finetune")] if adapter.is_concept else [adapter.icons]


def training_icons(adapter: Adapter) -> data.Icons:
    if adapter.is_concept:
        return data.load_subject(adapter.icons, *icon_sets(adapter))
    icons = data.load_common(adapter.icons)
    return icons.where([not data.is_held_out(subject) for subject in icons.subjects])


def judged_icons(adapter: Adapter) -> data.Icons:
    """What the adapter is measured on: of a style, subjects that it has not seen; of a concept, the drawings that it was taught.

    Other sets draw a subject so differently that even an adapter trained on the target need not help there.
    """
    return training_icons(adapter) if adapter.is_concept else data.load_common(adapter.icons).held_out()


def _tags(adapter: Adapter) -> dict[str, int]:
    """How often each part of a character's captions comes, as kohya's trainer tells it.

    None of a style's, which has no trigger word: its commonest part would be taken for one.
    """
    captions = training_icons(adapter).captions if adapter.is_character else []
    return dict(Counter(part.strip() for caption in captions for part in caption.split(",")))


def save_lora(path: Path, model: nn.Module, base: Checkpoint, adapter: Adapter) -> None:
    """Write the adapter inside ``model`` with kohya's keys and the ``ss_*`` metadata that its trainer writes."""
    tensors = {}
    for component in base.family.components:
        if not adapter.touches(component.folder):
            continue
        state = get_peft_model_state_dict(getattr(model, component.folder))
        for key in state:
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removesuffix(".lora_A.weight")
            path_in_base = base.unet_names.to_ldm(name) if component.name == "unet" else text_path(name)
            delta = LowRank(state[f"{name}.lora_B.weight"].flatten(1), state[key].flatten(1))
            tensors |= encode(base, f"{component.name}.{path_in_base}", delta, torch.float16)
    arguments = {"conv_dim": str(adapter.rank), "conv_alpha": str(adapter.rank)} if adapter.convolution else {}
    credits = [data.drawn_by(name) for name in icon_sets(adapter)]
    metadata = {
        "ss_base_model_version": base.family.base_version,
        "ss_v2": str(base.family.v2),
        "ss_sd_model_name": base.path.name,
        "ss_new_sd_model_hash": base.identity.sha256,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.rank),
        "ss_network_alpha": str(adapter.rank),
        "ss_network_args": json.dumps(arguments),
        "ss_output_name": path.stem,
        "ss_resolution": f"({data.SIZE}, {data.SIZE})",
        "ss_steps": str(adapter.steps),
        "ss_learning_rate": str(adapter.rate),
        "ss_tag_frequency": json.dumps({adapter.icons: _tags(adapter)}),
        "ss_training_comment": "icons of " + ", ".join(f"{used.package} ({used.licence})" for used in credits),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
