"""What a method knows of a pair of layers: both base weights' decompositions and the rank that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from lorax.low_rank import LowRank
from lorax.subspace import Decomposition, RankRule, similarity
from lorax.subspace.lazy import once

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 26}  # values of the weights' difference at a time: on a CPU they stay in its cache
LITTLE = 0.05  # of a delta that the target has already: a third of what ``auto`` would leave out
ROUNDING = 2**-8  # of bfloat16, relative


class Known(NamedTuple):
    """Of a pair of weights, so far as it is known."""

    r: int | None = None
    similarity: float | None = None


NOTHING = Known()


@dataclass(frozen=True)
class Bases:
    source: Decomposition
    target: Decomposition
    rule: RankRule
    known: Known = NOTHING

    @once
    def r(self) -> int:
        """The kept rank: the larger of what the rule says for either base, and no more than both have."""
        if self.known.r is not None:
            return self.known.r
        return min(max(base.rank(self.rule) for base in (self.source, self.target)), self.source.p, self.target.p)

    @property
    def same_shape(self) -> bool:
        return self.source.shape == self.target.shape

    @property
    def difference(self) -> str:
        """How the shapes differ, for the reason of a layer that is skipped for it."""
        return f"shapes differ ({tuple(self.source.shape)} and {tuple(self.target.shape)})"

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off, r = min(m, n). By choice a transfer is then a copy, longer sides included."""
        return self.same_shape and self.r == self.source.p

    @once
    def agree(self) -> bool:
        """Whether the weights are the same but for rounding to half precision, as where two bases share a text encoder."""
        if not self.same_shape:
            return False
        W_s, W_t = self.source.stored, self.target.stored
        return W_s is W_t or bool((W_t.float() - W_s.float()).norm() <= ROUNDING * W_s.float().norm())

    @once
    def similarity(self) -> float | None:
        return similarity(self.source, self.target) if self.known.similarity is None else self.known.similarity

    def computed(self) -> Known:
        """What was asked for so far, or known before."""
        return Known(*(vars(self).get(name, getattr(self.known, name)) for name in Known._fields))

    def overlap(self, dW: LowRank, norm: float, step: int = 1) -> float | None:
        """<W_t - W_s, dW> / ||dW||_F^2: the share of the delta that the target has already; None for unequal shapes.

        ``norm``: ||dW||_F. Every ``step``-th row tells it, and all of them where these tell of more than ``LITTLE``. Not finite
        where one of the weights that were read is not.
        """
        if not self.same_shape or not norm:
            return None
        share = self._overlap(dW, step) / norm**2
        return share if step == 1 or abs(share) < LITTLE else self._overlap(dW, 1) / norm**2

    def _overlap(self, dW: LowRank, step: int) -> float:
        """<W_t - W_s, dW>, from every ``step``-th row."""
        dtype = self.target.dtype
        W_s, W_t, up = self.source.stored[::step], self.target.stored[::step], dW.up[::step].to(dtype)
        rows = max(1, CHUNK[W_t.device.type] // W_t.shape[1])
        projected = up.new_zeros(dW.rank, W_t.shape[1])  # up^T (W_t - W_s)
        for B, t, s in zip(*(torch.split(one, rows) for one in (up, W_t, W_s)), strict=True):
            projected.addmm_(B.mT, t.to(dtype) - s.to(dtype))
        return dW.scale * (projected.double() * dW.down).sum().item() * len(dW.up) / len(up)


def from_factors(like: LowRank, up: torch.Tensor, down: torch.Tensor) -> LowRank:
    """Factors in whatever precision as an adapter's float32 ones, with the scale of ``like``."""
    return LowRank(up.float(), down.float(), like.scale)
