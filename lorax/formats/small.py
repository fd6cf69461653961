"""The small form of LoRA-X (arXiv 2501.16559): the file holds only the diagonal of dS, and the factors are rebuilt.

A layer is dW = U~ diag(dS) V~^T, with the leading singular vectors U~ and V~ of the source's weight. A weight does not determine
the vectors of nearly equal singular values. So the file also holds probes of dW, which a reader compares with the rebuilt dW.
"""

import numpy as np
import torch

from lorax.errors import LoraxError
from lorax.formats.parts import Extent, Layer, Shapes
from lorax.low_rank import LowRank
from lorax.subspace import Decomposition, basis

TITLE = "LoRA-X"
ON_BASE = True
LOW_RANK = True
CORE, PROBE = "core", "probe"
SUFFIXES = {".lorax_core": CORE, ".lorax_probe": PROBE}
PROBES = 8
TOLERANCE = 1e-4  # relative error of dW: another linear algebra library gives 1e-9, two mixed vectors of the basis near 1


def check(where: str, shapes: Shapes) -> None:
    if len(shapes.get(CORE, ())) != 1 or shapes[CORE][0] < 1 or shapes.get(PROBE) != (PROBES,):
        raise LoraxError(
            f"{where}: expected a core of one dimension and {PROBES} probes; found {dict(shapes)}. "
            "The file is incomplete; save or download it again."
        )


def extent(shapes: Shapes) -> Extent:
    return Extent(None, None, rank(shapes))


def rank(shapes: Shapes) -> int:
    return shapes[CORE][0]


def decode(layer: Layer) -> LowRank:
    """Return the delta, rebuilt from the source's weight. Raises LoraxError if there is no such weight, or it is another's."""
    if layer.read_weight is None:
        raise LoraxError(f"{layer.where}: in the small form, which is rebuilt from its source. It needs {layer.source}.")
    U, V = basis(Decomposition(layer.weight(layer.device).flatten(1)), len(layer.tensors[CORE]))
    dS = _checked(layer, probes_of(U, V))
    return LowRank((U * dS.to(U)).float().cpu(), V.mT.float().cpu())


def core_of(layer: Layer, P: torch.Tensor) -> torch.Tensor | None:
    """Return dS (r,), float64, or None for other forms. Raises LoraxError if P are not the probes of the layer's basis."""
    return _checked(layer, P) if CORE in layer.tensors else None


def probes_of(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Return the probes P (8, r), float64 on the CPU, of a basis U~ (m, r), V~ (n, r): P dS = g_k^T U~ diag(dS) V~^T h_k.

    g_k and h_k are fixed vectors of normal random numbers. Like dW, P does not depend on the signs of pairs (u_i, v_i).
    """
    normal = np.random.RandomState(0)  # numpy guarantees that this stream never changes
    g, h = (torch.from_numpy(normal.standard_normal((PROBES, side.shape[0]))) for side in (U, V))
    return (g @ U.double().cpu()) * (h @ V.double().cpu())


def encode(dS: torch.Tensor, P: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the layer's tensors for dS (r,) and the probes P of its basis. The stored probes are P times the rounded dS."""
    rounded = dS.to(dtype)
    return {"lorax_core": rounded.contiguous(), "lorax_probe": (P @ rounded.double()).float()}


def _checked(layer: Layer, P: torch.Tensor) -> torch.Tensor:
    """Return dS (r,), float64. Raises LoraxError if the stored probes are not those of a basis with the probes P."""
    dS, expected = layer.tensors[CORE].double(), layer.tensors[PROBE].double()
    error, size = (P @ dS - expected).square().mean().sqrt().item(), dS.norm().item()  # estimates ||dW' - dW||_F
    if size == 0 and error > 0:
        raise LoraxError(
            f"{layer.where}: the core is zero, but the probes are not. The file is damaged; save or download it again."
        )
    if error > TOLERANCE * size:
        raise LoraxError(
            f"{layer.where}: what is rebuilt differs from what was saved by {error / size:.0%}. It needs {layer.source}. If that "
            "is the source at hand, its singular vectors come out otherwise here, and the form with factors is needed: where it "
            "was trained, transfer it from its source to its source with --save-as lora-x, or train with form=factors."
        )
    return dS
