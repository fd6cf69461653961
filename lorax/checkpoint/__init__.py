"""A base checkpoint."""

from lorax.checkpoint.checkpoint import Checkpoint, open_checkpoint
from lorax.checkpoint.layer_names import block_of, component_of

__all__ = ["Checkpoint", "block_of", "component_of", "open_checkpoint"]
