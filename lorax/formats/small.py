"""The small LoRA-X file: of each layer only the diagonal of dS, since U~ and V~ are the source's own (arXiv 2501.16559).

The layer is dW = U~ diag(dS) V~^T, with U~ and V~ rebuilt from the source. Singular vectors of nearly equal singular values are
not determined by the weight, so a file also holds probes of dW, by which a reader sees whether it has rebuilt the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from lorax.errors import LoraxError
from lorax.low_rank import LowRank
from lorax.subspace import Decomposition
from lorax.subspace.signs import basis

CORE, PROBE = "core", "probe"
SUFFIXES = {".lorax_core": CORE, ".lorax_probe": PROBE}
PROBES = 8
TOLERANCE = 1e-4  # of ||dW||_F; rebuilt by another library it is 1e-9, and with two vectors of the basis mixed it is near 1


def check(where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise LoraxError unless the parts of one layer are there and fit together. ``where`` names the file and the layer."""
    if len(shapes.get(CORE, ())) != 1 or shapes[CORE][0] < 1 or shapes.get(PROBE) != (PROBES,):
        raise LoraxError(
            f"{where}: expected a core of one dimension and {PROBES} probes; found {dict(shapes)}. "
            "The file is incomplete; save or download it again."
        )


def probes_of(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """P (8, r), float64 on the CPU, of a basis U~ (m, r), V~ (n, r): P dS are the numbers g_k^T U~ diag(dS) V~^T h_k.

    g_k and h_k are fixed vectors of normal numbers. Like dW, P is blind to the signs of pairs (u_i, v_i).
    """
    made = np.random.RandomState(0)  # whose stream numpy promises never to change
    g, h = (torch.from_numpy(made.standard_normal((PROBES, side.shape[0]))) for side in (U, V))
    return (g @ U.double().cpu()) * (h @ V.double().cpu())


def encode(dS: torch.Tensor, P: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The layer's tensors, of dS (r,) and its basis' probes P. A file has the numbers for what ``dtype`` keeps of dS."""
    kept = dS.to(dtype)
    return {"lorax_core": kept.contiguous(), "lorax_probe": (P @ kept.double()).float()}


def read(where: str, get: Callable[[str], torch.Tensor], parts: Mapping[str, str], P: torch.Tensor, source: str) -> torch.Tensor:
    """dS (r,) of one layer, float64, when it was saved for the basis at hand, whose probes are P.

    Raises LoraxError when it was not; ``source`` names the base that is needed.
    """
    dS, expected = get(parts[CORE]).double(), get(parts[PROBE]).double()
    if not (torch.isfinite(dS).all() and torch.isfinite(expected).all()):
        raise LoraxError(f"{where}: holds NaN or infinite values. The file is damaged or training diverged.")
    error, size = (P @ dS - expected).square().mean().sqrt().item(), dS.norm().item()  # estimates ||dW' - dW||_F
    if error > TOLERANCE * size:
        raise LoraxError(
            f"{where}: what is rebuilt differs from what was saved by {error / size:.0%}. It needs {source}. If that is the "
            "source at hand, its singular vectors come out otherwise here, and the form with factors is needed: where it was "
            "trained, transfer it from its source to its source with --save-as lora-x, or train with form=factors."
        )
    return dS


def decode(where: str, get: Callable[[str], torch.Tensor], parts: Mapping[str, str], W: torch.Tensor, source: str) -> LowRank:
    """The delta of one layer, rebuilt on the weight W (m, n) that is said to be the source's. Raises as ``read`` does."""
    U, V = basis(Decomposition(W), get(parts[CORE]).numel())
    dS = read(where, get, parts, probes_of(U, V), source)
    return LowRank((U * dS.to(U)).float().cpu(), V.mT.float().cpu())


def fits(shapes: Mapping[str, tuple[int, ...]], weight: tuple[int, int]) -> bool:
    """Whether a weight (m, n) has as many singular values as the layer asks for."""
    return math.prod(shapes[CORE]) <= min(weight)
