"""Has Forge and Neo draw with the small models: they take them for those of SD 1.x or SDXL, whose files have their sizes."""

import json
import runpy
import shutil
from pathlib import Path

import huggingface_guess
from backend import loader
from backend.diffusion_engine import sdxl
from backend.nn.unet import Timestep
from huggingface_guess import detection, model_list
from modules.paths_internal import data_path

PREFIX, SECOND = "model.diffusion_model.", "conditioner.embedders.1.model."
TEXTS = {
    model_list.SD15: {"text_encoder": "cond_stage_model."},
    model_list.SDXL: {"text_encoder": "conditioner.embedders.0.", "text_encoder_2": SECOND},
}
HEADS = {
    model_list.SD15: {"num_heads": 4, "num_head_channels": -1},
    model_list.SDXL: {"num_heads": -1, "num_head_channels": 16},
}
DATA = Path(data_path)
text_sizes = runpy.run_path(str(DATA / "extensions/lorax/tests/webui/text_sizes.py"))["text_sizes"]


def small(repository):
    """Return a folder that replaces the one of a family that the WebUI has: the small models' autoencoder and tokenizer."""
    folder, tokenizer = DATA / "small" / Path(repository).name, DATA / "models/Stable-diffusion/tokenizer"
    if not folder.is_dir():
        shutil.copytree(Path(loader.__file__).parent / "huggingface" / repository, folder)
        change(folder / "vae/config.json", {"block_out_channels": [64] * 4, "layers_per_block": 1})
        for tokens in folder.glob("tokenizer*"):
            for file in ("vocab.json", "merges.txt"):
                shutil.copy(tokenizer / file, tokens / file)
    return folder


def change(file, entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def guess(state):
    """Return what is known of SD 1.x or SDXL, with the sizes of this file. None of the tables has them."""
    kind = model_list.SDXL if any(key.startswith(SECOND) for key in state) else model_list.SD15
    found, folder = kind(detection.detect_unet_config(state, PREFIX)), small(kind.huggingface_repo)
    for name in ("image_model", "use_temporal_attention"):
        found.unet_config.pop(name, None)
    found.unet_config |= HEADS[kind]
    found.unet_key_prefix, found.huggingface_repo = [PREFIX], str(folder)
    for name, prefix in TEXTS[kind].items():
        change(folder / name / "config.json", text_sizes(state, prefix))
    if kind is model_list.SDXL:
        pooled = text_sizes(state, SECOND)["hidden_size"]
        channels = (found.unet_config["adm_in_channels"] - pooled) // 6  # of each of the picture's six sizes; SDXL's have 256
        sdxl.Timestep = lambda fixed: Timestep(channels)
    return found


huggingface_guess.guess = guess
