"""The inputs that mean the same to two layers of unlike input sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorax.checkpoint import Checkpoint
from lorax.low_rank import LowRank
from lorax.reasons import Reason, Why

LATENT = 4  # channels of the picture, which come first; inpainting's mask and masked picture, or the original, follow


@dataclass(frozen=True)
class Columns:
    """Inputs that mean the same to both layers: columns of the source's weight as a matrix, and of the target's.

    ``note`` names these inputs, as an addition to the reason of a pair.
    """

    source: slice
    target: slice
    note: Reason

    def narrowed(self, dW: LowRank) -> LowRank:
        """The source's delta (m, n_s) for these inputs alone."""
        return LowRank(dW.up, dW.down[:, self.source], dW.scale)

    def widened(self, dW: LowRank, columns: int) -> LowRank:
        """The delta for all ``columns`` inputs of the target. It is zero for the inputs that are not shared."""
        down = dW.down.new_zeros(dW.rank, columns)
        down[:, self.target] = dW.down
        return LowRank(dW.up, down, dW.scale)


def shared_inputs(source: Checkpoint, s: str, target: Checkpoint, t: str) -> Columns | None:
    """Inputs that the layers ``s`` and ``t`` share; None if they share all, or if it is not known which.

    Cross-attention's inputs are the outputs of the text encoders, one beside the other. The first 768 of SDXL's 2048 are those of
    CLIP ViT-L, which are all of SD 1.x's. The last 1280 are those of OpenCLIP ViT-bigG, which are all of the refiner's.
    """
    (_, n_s), (_, n_t) = source.matrix(s), target.matrix(t)
    if n_s == n_t:
        return None
    if re.search(r"\.attn2\.to_[kv]$", s):
        encoders_s, encoders_t = source.family.context, target.family.context
        common, width = [encoder for encoder in encoders_s if encoder in encoders_t], min(n_s, n_t)
        if len(common) != 1 or len(encoders_s) == len(encoders_t):
            return None
        (encoder,) = common
        note = Reason(Why.ON_ENCODER_INPUTS, {"width": width, "encoder": encoder})
        return Columns(_columns_of(encoder, encoders_s, n_s, width), _columns_of(encoder, encoders_t, n_t, width), note)
    if s == t == "unet.input_blocks.0.0":
        taps = n_s // source.layers[s][1]
        latent = slice(0, LATENT * taps)
        note = Reason(Why.ON_PICTURE_CHANNELS, {"channels": LATENT})
        return Columns(latent, latent, note) if min(n_s, n_t) >= latent.stop else None
    return None


def _columns_of(encoder: str, encoders: tuple[str, ...], columns: int, width: int) -> slice:
    """The encoder's ``width`` inputs among all ``columns``: the first ones or the last ones."""
    return slice(0, width) if encoders[0] == encoder else slice(columns - width, columns)
