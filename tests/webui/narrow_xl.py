"""SDXL and SSD-1B for the real WebUI: their structures at narrow widths, with random weights and the bundled autoencoder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from tests import xl

CONFIG = "repositories/generative-models/configs/inference/sd_xl_base.yaml"  # in WebUIs that read one
XL, RELATIVE, PRUNED = "xl", "xl-relative", "xl-pruned"
ARCHITECTURE = "narrow"  # of the second text encoder; ``probe.py`` registers it with OpenCLIP
HEADS, HEAD_CHANNELS = 4, 16
VISION = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 16, "head_width": 16}  # the host throws it away
# The host's own OpenCLIP tokenizer gives ids up to 49407. SSD-1B's blocks are those that the host removes from SDXL.
SIZE = xl.Size((0, 2, 10), 10, ((10, 10, 10), (2, 2, 2), (0, 0, 0)), (64, 64, 64), 64, 64, (3, 3), 49408)
SSD = replace(SIZE, down=(0, 2, 4), middle=None, up=((4, 4, 10), (2, 1, 1), (0, 0, 0)))


def write(installation: Path, data: Path, checkpoints: Path) -> Path:
    """Write the checkpoints, what the host reads besides, and a LoRA, which is returned. SD 1.x's must be there already."""
    if (installation / CONFIG).is_file():
        config = _config(installation, data, checkpoints)
        (data / "sd_xl_base.yaml").write_text(config)  # the probe makes it the default, which XL and RELATIVE share
        (checkpoints / f"{PRUNED}.yaml").write_text(config)
    (data / "open_clip").mkdir()
    text = {"context_length": 77, "vocab_size": SIZE.vocabulary, "width": SIZE.second, "heads": HEADS, "layers": 3}
    sizes = {"embed_dim": SIZE.second, "vision_cfg": VISION, "text_cfg": text}
    (data / "open_clip" / f"{ARCHITECTURE}.json").write_text(json.dumps(sizes))
    base = xl.base(0, SIZE)
    states = {XL: base, RELATIVE: xl.relative(base, noise=0.3), PRUNED: xl.pruned(base, SSD)}
    autoencoder = {key: value for key, value in load_file(checkpoints / "base.safetensors").items() if "first_stage_model" in key}
    for name, state in states.items():
        path = xl.save(state, checkpoints / f"{name}.safetensors")
        save_file(load_file(path) | autoencoder, path)
    lora = data / "xl-style.safetensors"
    xl.save_lora(lora, xl.trained(SIZE), size=SIZE, metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    return lora


def _config(installation: Path, data: Path, checkpoints: Path) -> str:
    """The host's own, with our sizes."""
    config = yaml.safe_load((installation / CONFIG).read_text())
    model = config["model"]["params"]
    ours = yaml.safe_load((data / "v1-inference.yaml").read_text())["model"]["params"]
    model["scale_factor"] = ours["scale_factor"]
    model["first_stage_config"]["params"]["ddconfig"] |= ours["first_stage_config"]["params"]["ddconfig"]
    model["network_config"]["params"] |= {
        "adm_in_channels": SIZE.pooled,
        "use_checkpoint": False,
        "model_channels": SIZE.channels[0],
        "channel_mult": [width // SIZE.channels[0] for width in SIZE.channels],
        "num_head_channels": HEAD_CHANNELS,
        "context_dim": SIZE.first + SIZE.second,
    }
    first, second, *sizes = model["conditioner_config"]["params"]["emb_models"]
    first["params"] |= {"version": str(_tokenizer(data, checkpoints)), "layer_idx": SIZE.text_layers[0] - 1}
    second["params"]["arch"] = ARCHITECTURE
    for size in sizes:
        size["params"]["outdim"] = SIZE.channels[0]
    return str(yaml.safe_dump(config))


def _tokenizer(data: Path, checkpoints: Path) -> Path:
    """Copy the bundled models' tokenizer, and give it as many tokens as the second text encoder has."""
    folder = data / "xl-tokenizer"
    shutil.copytree(checkpoints / "tokenizer", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": SIZE.vocabulary}))
    return folder
