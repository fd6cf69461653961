"""The small form of LoRA-X (arXiv 2501.16559): the file holds only the diagonal of dS, and the factors are rebuilt.

A layer is dW = U~ diag(dS) V~^T. U~ and V~ are the leading singular vectors of the source's own weight. A weight does not
determine the vectors of nearly equal singular values. The file therefore also holds probes of dW, and a reader compares them with
what it has rebuilt.
"""

from __future__ import annotations

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
TOLERANCE = 1e-4  # of ||dW||_F; rebuilt by another library it is 1e-9, and with two vectors of the basis mixed it is near 1


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
    """The delta, rebuilt on the source's weight. Raises LoraxError if there is none, or if it is not the source's."""
    if layer.read_weight is None:
        raise LoraxError(f"{layer.where}: in the small form, which is rebuilt from its source. It needs {layer.source}.")
    U, V = basis(Decomposition(layer.weight(layer.device).flatten(1)), len(layer.tensors[CORE]))
    dS = _checked(layer, probes_of(U, V))
    return LowRank((U * dS.to(U)).float().cpu(), V.mT.float().cpu())


def core_of(layer: Layer, P: torch.Tensor) -> torch.Tensor | None:
    """dS (r,), float64, of a layer in the small form, for a basis whose probes are P; None if the layer has another form.

    Raises LoraxError if the layer was saved for another basis.
    """
    return _checked(layer, P) if CORE in layer.tensors else None


def probes_of(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """P (8, r), float64 on the CPU, of a basis U~ (m, r), V~ (n, r): P dS are the numbers g_k^T U~ diag(dS) V~^T h_k.

    g_k and h_k are fixed vectors of normal numbers. Like dW, P is blind to the signs of pairs (u_i, v_i).
    """
    made = np.random.RandomState(0)  # numpy promises never to change its stream
    g, h = (torch.from_numpy(made.standard_normal((PROBES, side.shape[0]))) for side in (U, V))
    return (g @ U.double().cpu()) * (h @ V.double().cpu())


def encode(dS: torch.Tensor, P: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The layer's tensors for dS (r,) and the probes P of its basis. The stored probes are those of dS rounded to ``dtype``."""
    rounded = dS.to(dtype)
    return {"lorax_core": rounded.contiguous(), "lorax_probe": (P @ rounded.double()).float()}


def _checked(layer: Layer, P: torch.Tensor) -> torch.Tensor:
    """dS (r,), float64. Raises LoraxError if the stored probes are not those of a basis with the probes P."""
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
