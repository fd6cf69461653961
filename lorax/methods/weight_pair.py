"""The two weights of a pair of layers, and the rank of a projection between them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from lorax.low_rank import LowRank
from lorax.reasons import Reason, Why
from lorax.subspace import Decomposition, RankRule, once, similarity

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 26}  # values of the weights' difference at a time, few enough for a CPU's cache
LITTLE = 0.05  # share of a delta in the target that needs no exact measurement, a third of ``auto.OVERLAP``
ROUNDING = 2**-8  # relative error of bfloat16


class Found(NamedTuple):
    """Earlier results for a pair of weights: the kept rank and the similarity."""

    r: int | None = None
    similarity: float | None = None


NOTHING = Found()


@dataclass(frozen=True)
class WeightPair:
    """A source weight (m, n) and a target weight, with the rule for the kept rank."""

    source: Decomposition
    target: Decomposition
    rule: RankRule
    before: Found = NOTHING

    @once
    def r(self) -> int:
        """The kept rank: the larger of the rule's ranks for both weights, within the smaller number of singular values."""
        if self.before.r is not None:
            return self.before.r
        return min(max(weight.rank(self.rule) for weight in (self.source, self.target)), self.source.p, self.target.p)

    @property
    def same_shape(self) -> bool:
        return self.source.shape == self.target.shape

    def shapes_differ(self, kind: Why) -> Reason:
        """Return the reason for a layer that is skipped because the shapes differ."""
        return Reason(kind, {"source": tuple(self.source.shape), "target": tuple(self.target.shape)})

    @property
    def keeps_all(self) -> bool:
        """Whether r = min(m, n). A transfer is then a copy, though a projection would cut the longer side."""
        return self.same_shape and self.r == self.source.p

    @once
    def agree(self) -> bool:
        """Whether the weights are equal up to rounding to half precision, as in a text encoder that two bases share."""
        if not self.same_shape:
            return False
        W_s, W_t = self.source.stored, self.target.stored
        return W_s is W_t or bool((W_t.float() - W_s.float()).norm() <= ROUNDING * W_s.float().norm())

    @once
    def similarity(self) -> float | None:
        """The similarity of the weights' leading subspaces, 0 by chance and 1 if they are equal; None for unequal shapes."""
        return similarity(self.source, self.target) if self.before.similarity is None else self.before.similarity

    def found(self) -> Found:
        """Return the results so far."""
        return Found(*(vars(self).get(name, getattr(self.before, name)) for name in Found._fields))

    def overlap(self, dW: LowRank, norm: float, step: int = 1) -> float | None:
        """Return <W_t - W_s, dW> / ||dW||_F^2, the share of the delta that the target has already; None for unequal shapes.

        ``norm`` is ||dW||_F. Every ``step``-th row is measured, and all rows if the share is more than ``LITTLE``.
        """
        if not self.same_shape or not norm:
            return None
        share = self._overlap(dW, step) / norm**2
        return share if step == 1 or abs(share) < LITTLE else self._overlap(dW, 1) / norm**2

    def _overlap(self, dW: LowRank, step: int) -> float:
        """Estimate <W_t - W_s, dW> from every ``step``-th row."""
        dtype = self.target.dtype
        W_s, W_t, up = self.source.stored[::step], self.target.stored[::step], dW.up[::step].to(dtype)
        rows = max(1, CHUNK[W_t.device.type] // W_t.shape[1])
        projected = up.new_zeros(dW.rank, W_t.shape[1])  # up^T (W_t - W_s)
        for B, t, s in zip(*(torch.split(one, rows) for one in (up, W_t, W_s)), strict=True):
            projected.addmm_(B.mT, t.to(dtype) - s.to(dtype))
        return dW.scale * (projected.double() * dW.down).sum().item() * len(dW.up) / len(up)


def from_factors(like: LowRank, up: torch.Tensor, down: torch.Tensor) -> LowRank:
    """Return a float32 delta with these factors and the scale of ``like``."""
    return LowRank(up.float(), down.float(), like.scale)
