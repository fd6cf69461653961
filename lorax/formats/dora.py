"""DoRA (arXiv 2402.09353): magnitudes, with the parts of another format, for the rows or the columns of the changed weight.

``dora_scale`` of kohya and LyCORIS is read as in A1111, and ``lora_magnitude_vector`` as in PEFT.
"""

from lorax.errors import LoraxError
from lorax.formats.parts import Layer
from lorax.low_rank import LowRank

SCALE, MAGNITUDE = "dora_scale", "lora_magnitude_vector"
SUFFIXES = {".dora_scale": SCALE, ".lora_magnitude_vector": MAGNITUDE, ".lora_magnitude_vector.weight": MAGNITUDE}


def decomposed(layer: Layer, delta: LowRank) -> LowRank:
    """Return the delta m (W + dW) / ||W + dW|| - W, of any rank, for the dW of the other format.

    For ``dora_scale``, the norm is that of each input, over outputs and kernel (A1111, network.py). For PEFT's magnitudes it is
    that of each output (PEFT, lora/dora.py). Raises LoraxError if the magnitudes do not fit the source's weight.
    """
    W = layer.weight().double()
    changed = W + (delta.scale * (delta.up.double() @ delta.down.double())).reshape(W.shape)
    if MAGNITUDE in layer.tensors:
        m, sides = layer.tensors[MAGNITUDE].reshape(-1, *(1 for _ in W.shape[1:])), [0]
    else:
        m, sides = layer.tensors[SCALE], [0, 1]
    allowed = [tuple(W.shape[side] if axis == side else 1 for axis in range(W.dim())) for side in sides]
    if tuple(m.shape) not in allowed:
        raise LoraxError(
            f"{layer.where}: the lengths of DoRA have the shape {tuple(m.shape)}; expected {' or '.join(map(str, allowed))} for "
            f"the base's weight of shape {tuple(W.shape)}. Choose as source the base that the adapter was trained on."
        )
    norm = changed.flatten(1).norm(dim=1) if MAGNITUDE in layer.tensors else changed.transpose(0, 1).flatten(1).norm(dim=1)
    shape = (-1, *(1 for _ in W.shape[1:])) if MAGNITUDE in layer.tensors else (1, -1, *(1 for _ in W.shape[2:]))
    return LowRank.of((changed * (m.double() / norm.reshape(shape)) - W).float().flatten(1))
