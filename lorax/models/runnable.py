"""Checks from a base's header whether it can be run."""

from lorax.checkpoint import Checkpoint, ModelConfig, config_of
from lorax.errors import LoraxError

FIRST = "unet.input_blocks.0.0"
CHANNELS = 4  # of latents


def check(base: Checkpoint) -> ModelConfig:
    """Return the base's configuration. Raises LoraxError if it cannot be run."""
    if base.path.is_dir():
        raise LoraxError(
            f"{base.path}: a folder; only checkpoints in one file can be run. Use the model as one file, or draw in the WebUI."
        )
    settings = config_of(base.unet_file, base.family.name)
    if FIRST not in base.layers:
        raise LoraxError(f"{base.path}: the UNet lacks {FIRST.removeprefix('unet.')}, its first layer. Use a whole checkpoint.")
    if (channels := base.layers[FIRST][1]) != CHANNELS:
        raise LoraxError(
            f"{base.path}: the UNet takes {channels} channels, as models for inpainting do; expected {CHANNELS}. "
            "Use a checkpoint that makes pictures from text."
        )
    return settings


def check_all(*bases: Checkpoint) -> None:
    """Raise LoraxError if one of the bases cannot be run."""
    for base in bases:
        check(base)


def can_run(*bases: Checkpoint) -> bool:
    """Tell whether all of the bases can be run."""
    try:
        check_all(*bases)
    except LoraxError:
        return False
    return True
