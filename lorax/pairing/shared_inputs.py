"""Pairs of layers, and the inputs with the same meaning in two layers of different input sizes."""

import re
from dataclasses import dataclass

from lorax.checkpoint import Checkpoint
from lorax.low_rank import LowRank
from lorax.reasons import Reason, Why

LATENT = 4  # channels of the picture, which are the first ones; those of a mask or of another picture follow


@dataclass(frozen=True)
class Columns:
    """Shared inputs: columns of the source's weight as a matrix, and of the target's. ``note`` names them in a pair's reason."""

    source: slice
    target: slice
    note: Reason

    def narrowed(self, dW: LowRank) -> LowRank:
        """Return the source's delta (m, n_s) for these inputs alone."""
        return LowRank(dW.up, dW.down[:, self.source], dW.scale)

    def widened(self, dW: LowRank, columns: int) -> LowRank:
        """Return the delta for all ``columns`` inputs of the target, 0 for inputs that are not shared."""
        down = dW.down.new_zeros(dW.rank, columns)
        down[:, self.target] = dW.down
        return LowRank(dW.up, down, dW.scale)


@dataclass(frozen=True)
class Pair:
    """A source layer, its target layer or None, and the reason. ``columns``: the shared inputs, if not all are shared."""

    source: str
    target: str | None
    reason: Reason
    columns: Columns | None = None


def shared_inputs(source: Checkpoint, s: str, target: Checkpoint, t: str) -> Columns | None:
    """Return the inputs that the layers ``s`` and ``t`` share; None if they share all, or if these are unknown.

    The inputs of cross-attention are the concatenated outputs of the text encoders. Of SDXL's 2048, the first 768 are those of
    CLIP ViT-L, the only ones of SD 1.x, and the last 1280 those of OpenCLIP ViT-bigG, the only ones of the refiner.
    """
    (_, n_s), (_, n_t) = source.matrix(s), target.matrix(t)
    if n_s == n_t:
        return None
    if re.search(r"\.attn2\.to_[kv]$", s):
        encoders_s, encoders_t = ([one.title for one in base.family.text_encoders] for base in (source, target))
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


def _columns_of(encoder: str, encoders: list[str], columns: int, width: int) -> slice:
    """Return the encoder's ``width`` inputs among all ``columns``: the first ones or the last ones."""
    return slice(0, width) if encoders[0] == encoder else slice(columns - width, columns)
