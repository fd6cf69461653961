"""Opens base checkpoints, with their family, the names of their layers, their weights, hashes and prediction type."""

from lorax.checkpoint import families, openclip
from lorax.checkpoint.checkpoint import Checkpoint, open_checkpoint
from lorax.checkpoint.families import FAMILIES, SD1, SDXL, Family
from lorax.checkpoint.layer_names import PROJECTION, TEXT_MODEL, UNetNames, block_of, by_block, component_of, text_path
from lorax.checkpoint.layouts import is_layer
from lorax.checkpoint.model_config import DEFAULT_CONFIGS, ModelConfig, config_of
from lorax.checkpoint.prediction import NOISE, VELOCITY, Mismatch, mismatch, prediction_in

__all__ = [
    "DEFAULT_CONFIGS",
    "FAMILIES",
    "NOISE",
    "PROJECTION",
    "SD1",
    "SDXL",
    "TEXT_MODEL",
    "VELOCITY",
    "Checkpoint",
    "Family",
    "Mismatch",
    "ModelConfig",
    "UNetNames",
    "block_of",
    "by_block",
    "component_of",
    "config_of",
    "families",
    "is_layer",
    "mismatch",
    "open_checkpoint",
    "openclip",
    "prediction_in",
    "text_path",
]
