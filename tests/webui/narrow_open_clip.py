"""SD 2.x and SDXL's refiner for the real WebUI: at narrow widths, with random weights and the bundled autoencoder.

OpenCLIP is their only text encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from tests import builders, families, xl
from tests.structure import Param, text_params, unet_params
from tests.webui import narrow_xl

SD2, REFINER = "sd2", "refiner"
CHANNELS, WIDTH, LAYERS = (64, 64, 64, 64), narrow_xl.SIZE.second, narrow_xl.SIZE.text_layers[1]
POOLED = WIDTH + 5 * CHANNELS[0]  # the pooled text and five sizes
SIZES = {"use_checkpoint": False, "model_channels": CHANNELS[0], "channel_mult": [width // CHANNELS[0] for width in CHANNELS]}
UNETS = {
    SD2: unet_params(CHANNELS, WIDTH, families.DEPTHS["down"], 1, families.DEPTHS["up"], linear=True),
    REFINER: unet_params(CHANNELS, WIDTH, *families.REFINER_DEPTHS, linear=True, pooled=POOLED),
}
TEXTS = {SD2: "cond_stage_model.model.", REFINER: "conditioner.embedders.0.model."}


def write(installation: Path, data: Path, checkpoints: Path) -> None:
    """Write the checkpoints with a ``.yaml`` each. ``narrow_xl``'s must be there already: OpenCLIP has its architecture."""
    projection = Param("text_projection.weight", "text_projection.weight", (WIDTH, WIDTH))
    text = xl.open_clip(families.random_state([*text_params(WIDTH, LAYERS, narrow_xl.SIZE.vocabulary), projection], seed=1))
    autoencoder = {key: value for key, value in load_file(checkpoints / "base.safetensors").items() if "first_stage_model" in key}
    configs = {SD2: _sd2(installation), REFINER: _refiner(installation)}
    ours = yaml.safe_load((data / "v1-inference.yaml").read_text())["model"]["params"]
    for name, params in UNETS.items():
        state = {builders.UNET + path: value for path, value in families.random_state(list(params), seed=0).items()}
        state |= {TEXTS[name] + key: value.contiguous() for key, value in text.items()}
        save_file(state | autoencoder, checkpoints / f"{name}.safetensors")
        model = configs[name]["model"]["params"]
        model["scale_factor"] = ours["scale_factor"]
        model["first_stage_config"]["params"]["ddconfig"] |= ours["first_stage_config"]["params"]["ddconfig"]
        (checkpoints / f"{name}.yaml").write_text(yaml.safe_dump(configs[name]))


def _sd2(installation: Path) -> dict[str, Any]:
    """The host's own, with our sizes."""
    folder = installation / "repositories/stable-diffusion-stability-ai/configs/stable-diffusion"
    config: dict[str, Any] = yaml.safe_load((folder / "v2-inference.yaml").read_text())
    model = config["model"]["params"]
    model["unet_config"]["params"] |= SIZES | {"num_head_channels": narrow_xl.HEAD_CHANNELS, "context_dim": WIDTH}
    model["cond_stage_config"]["params"]["arch"] = narrow_xl.ARCHITECTURE
    return config


def _refiner(installation: Path) -> dict[str, Any]:
    folder = installation / "repositories/generative-models/configs/inference"
    config: dict[str, Any] = yaml.safe_load((folder / "sd_xl_refiner.yaml").read_text())
    model = config["model"]["params"]
    depth = families.REFINER_DEPTHS[1]
    model["network_config"]["params"] |= SIZES | {
        "adm_in_channels": POOLED,
        "num_head_channels": narrow_xl.HEAD_CHANNELS,
        "transformer_depth": depth,
        "context_dim": [WIDTH] * depth,
    }
    encoder, *sizes = model["conditioner_config"]["params"]["emb_models"]
    encoder["params"]["arch"] = narrow_xl.ARCHITECTURE
    for size in sizes:
        size["params"]["outdim"] = CHANNELS[0]
    return config
