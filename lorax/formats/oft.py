"""OFT (arXiv 2306.07280) and BOFT (arXiv 2311.06243) of kohya and LyCORIS: outputs of the base's weight are rotated in blocks.

``oft_blocks`` is (blocks, b, b) in OFT and (steps, blocks, b, b) in BOFT. Its Cayley transform gives the rotations R. LyCORIS'
old ``oft_diag`` holds R itself. ``alpha`` is not a scale here, but the constraint.
"""

import math

import torch

from lorax.formats import parts
from lorax.formats.parts import ALPHA, Extent, Layer, Shapes
from lorax.low_rank import LowRank

TITLE = "OFT"
ON_BASE = True
LOW_RANK = False
BLOCKS, ROTATIONS, RESCALE = "oft_blocks", "oft_diag", "rescale"
SUFFIXES = {f".{part}": part for part in (BLOCKS, ROTATIONS, RESCALE)}
TINY = 1e-8


def check(where: str, shapes: Shapes) -> None:
    if ROTATIONS not in shapes:
        parts.require(where, shapes, BLOCKS)
    blocks = _blocks(shapes)
    fits = len(blocks) == 3 or (len(blocks) == 4 and BLOCKS in shapes and blocks[2] % 2 == 0)
    fits = fits and (len(blocks) == 3 or _have_members(blocks[0], blocks[1]))
    if (
        not fits
        or blocks[-1] != blocks[-2]
        or 0 in blocks
        or math.prod(shapes.get(RESCALE, blocks[-3:-1])) != extent(shapes).outputs
    ):
        expected = (
            "blocks (k, b, b), or (steps, k, b, b) with an even b and k a multiple of 2^(steps - 1), and a rescale of k * b"
        )
        raise parts.fail(where, shapes, expected)


def _blocks(shapes: Shapes) -> tuple[int, ...]:
    return shapes[BLOCKS] if BLOCKS in shapes else shapes[ROTATIONS]


def _have_members(steps: int, blocks: int) -> bool:
    """Whether there are blocks for so many steps of BOFT, of which each joins twice as many as the one before."""
    return 0 < steps <= blocks.bit_length() and blocks % 2 ** (steps - 1) == 0


def is_butterfly(shapes: Shapes) -> bool:
    """Tell whether the parts are BOFT's."""
    return len(shapes.get(BLOCKS, ())) == 4


def extent(shapes: Shapes) -> Extent:
    return Extent(math.prod(_blocks(shapes)[-3:-1]), None)


def rank(shapes: Shapes) -> None:
    return None


def decode(layer: Layer) -> LowRank:
    """Return dW = (R^T - 1) W, of any rank, as A1111 computes it (network_oft.py). The constraint is alpha times the outputs."""
    W = layer.weight().double().flatten(1)
    R = _rotations(layer, len(W))
    rotated = _butterfly(R, W) if R.dim() == 4 else torch.einsum("knm,kni->kmi", R, W.reshape(*R.shape[:2], -1)).flatten(0, 1)
    if RESCALE in layer.tensors:
        rotated = rotated * layer.tensors[RESCALE].double().reshape(-1, 1)
    return LowRank.of((rotated - W).float())


def _rotations(layer: Layer, outputs: int) -> torch.Tensor:
    """Return R = (1 + Q) (1 - Q)^-1, float64, for a skew-symmetric Q, whose norm a constraint other than 0 bounds."""
    if ROTATIONS in layer.tensors:
        return layer.tensors[ROTATIONS].double()
    Q = layer.tensors[BLOCKS].double()
    Q = Q - Q.mT
    if constraint := outputs * (layer.tensors[ALPHA].item() if ALPHA in layer.tensors else 0.0):
        Q = Q * ((Q.norm().clamp(max=constraint) + TINY) / (Q.norm() + TINY))
    one = torch.eye(Q.shape[-1], dtype=Q.dtype)
    return (one + Q) @ torch.linalg.inv(one - Q)  # 1 - Q has an inverse, as a skew-symmetric Q has no real eigenvalues but 0


def _butterfly(R: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Return W after all steps of BOFT (equation 5). Step i rotates blocks whose rows are 2^i * b / 2 apart."""
    steps, _, b, _ = R.shape
    for i in range(steps):
        k = 2**i * b // 2
        W = W.reshape(-1, 2, k, W.shape[-1]).transpose(1, 2).reshape(-1, b, W.shape[-1])
        W = torch.einsum("kij,kjx->kix", R[i], W)
        W = W.reshape(-1, k, 2, W.shape[-1]).transpose(1, 2).flatten(0, 2)
    return W
