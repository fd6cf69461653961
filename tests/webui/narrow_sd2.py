"""SD 2.x for the real WebUI: its structure at narrow widths, with random weights and the bundled autoencoder."""

from __future__ import annotations

from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from tests import builders, families, xl
from tests.builders import State
from tests.structure import Param, text_params, unet_params
from tests.webui import narrow_xl

SD2 = "sd2"
CHANNELS, WIDTH, LAYERS = (64, 64, 64, 64), narrow_xl.SIZE.second, narrow_xl.SIZE.text_layers[1]


def write(installation: Path, data: Path, checkpoints: Path) -> None:
    """Write the checkpoint with its ``.yaml``. ``narrow_xl``'s must be there already: the text encoder has its architecture."""
    unet = list(unet_params(CHANNELS, WIDTH, families.DEPTHS["down"], 1, families.DEPTHS["up"], linear=True))
    projection = Param("text_projection.weight", "text_projection.weight", (WIDTH, WIDTH))
    text = families.random_state([*text_params(WIDTH, LAYERS, narrow_xl.SIZE.vocabulary), projection], seed=1)
    state: State = {builders.UNET + path: value for path, value in families.random_state(unet, seed=0).items()}
    state |= {f"cond_stage_model.model.{key}": value for key, value in xl.open_clip(text).items()}
    state |= {key: value for key, value in load_file(checkpoints / "base.safetensors").items() if "first_stage_model" in key}
    save_file({key: value.contiguous() for key, value in state.items()}, checkpoints / f"{SD2}.safetensors")
    (checkpoints / f"{SD2}.yaml").write_text(_config(installation, data))


def _config(installation: Path, data: Path) -> str:
    """The host's own, with our sizes."""
    path = installation / "repositories/stable-diffusion-stability-ai/configs/stable-diffusion/v2-inference.yaml"
    config = yaml.safe_load(path.read_text())
    model = config["model"]["params"]
    ours = yaml.safe_load((data / "v1-inference.yaml").read_text())["model"]["params"]
    model["scale_factor"] = ours["scale_factor"]
    model["first_stage_config"]["params"]["ddconfig"] |= ours["first_stage_config"]["params"]["ddconfig"]
    model["unet_config"]["params"] |= {
        "use_checkpoint": False,
        "model_channels": CHANNELS[0],
        "channel_mult": [width // CHANNELS[0] for width in CHANNELS],
        "num_head_channels": narrow_xl.HEAD_CHANNELS,
        "context_dim": WIDTH,
    }
    model["cond_stage_config"]["params"]["arch"] = narrow_xl.ARCHITECTURE
    return str(yaml.safe_dump(config))
