"""Has Forge and Neo draw with the small models: they take them for those of SD 1.x, whose files have the small models' sizes."""

import json
import shutil
from pathlib import Path

import huggingface_guess
from backend import loader
from huggingface_guess import detection, model_list
from modules.paths_internal import data_path

PREFIX = "model.diffusion_model."
SMALL = Path(data_path) / "small"  # in place of the folder of SD 1.x that the WebUI has
if not SMALL.is_dir():
    shutil.copytree(Path(loader.__file__).parent / "huggingface/runwayml/stable-diffusion-v1-5", SMALL)
    tokenizer = Path(data_path) / "models/Stable-diffusion/tokenizer"
    sizes = json.loads((SMALL / "vae/config.json").read_text()) | {"block_out_channels": [64] * 4, "layers_per_block": 1}
    (SMALL / "vae/config.json").write_text(json.dumps(sizes))
    shutil.copy(tokenizer / "config.json", SMALL / "text_encoder/config.json")
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / file, SMALL / "tokenizer" / file)


def guess(state):
    """Return what is known of SD 1.x, with the sizes of this UNet. None of the tables has them."""
    found = model_list.SD15(detection.detect_unet_config(state, PREFIX))
    for name in ("image_model", "use_temporal_attention"):
        found.unet_config.pop(name, None)
    found.unet_config |= {"num_heads": 4, "num_head_channels": -1}
    found.unet_key_prefix, found.huggingface_repo = [PREFIX], str(SMALL)
    return found


huggingface_guess.guess = guess
