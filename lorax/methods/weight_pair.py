"""The two weights of a pair of layers, and the rank of a projection between them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lorax.low_rank import LowRank
from lorax.reasons import Reason, Why
from lorax.subspace import Decomposition, RankRule, once, similarity

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 26}  # values of the weights' difference at a time, few enough for a CPU's cache
LITTLE = 0.05  # share of a delta in the target that needs no exact measurement, half of ``auto.LITTLE``
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
        up, (_, columns) = dW.up[::step].to(self.target.dtype), self.target.shape
        rows = max(1, CHUNK[up.device.type] // columns)
        projected = up.new_zeros(dW.rank, columns)  # up^T (W_t - W_s)
        for B, difference in zip(torch.split(up, rows), self._difference(step, rows), strict=True):
            projected.addmm_(B.mT, difference)
        return dW.scale * (projected * dW.down).sum().item() * len(dW.up) / len(up)

    def _difference(self, step: int, rows: int) -> Iterable[torch.Tensor]:
        """Return every ``step``-th row of W_t - W_s, so many at a time. A sample of rows is kept for the deltas that follow."""
        if step not in self._sampled:
            dtype, W_s, W_t = self.target.dtype, self.source.stored[::step], self.target.stored[::step]
            chunks = (t.to(dtype) - s.to(dtype) for t, s in zip(torch.split(W_t, rows), torch.split(W_s, rows), strict=True))
            if step == 1:
                return chunks
            self._sampled[step] = list(chunks)
        return self._sampled[step]

    @once
    def _sampled(self) -> dict[int, list[torch.Tensor]]:
        return {}


def from_factors(like: LowRank, up: torch.Tensor, down: torch.Tensor) -> LowRank:
    """Return a float32 delta with these factors and the scale of ``like``."""
    return LowRank(up.float(), down.float(), like.scale)
