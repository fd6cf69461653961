"""What a method knows of a pair of layers: both base weights' decompositions and the rank that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from lorax.adapter import LowRank
from lorax.subspace import Decomposition, RankRule, similarity

ROUNDING = 2**-8  # of bfloat16, relative


@dataclass(frozen=True)
class Bases:
    source: Decomposition
    target: Decomposition
    rule: RankRule

    @cached_property
    def r(self) -> int:
        """The kept rank: the larger of what the rule says for either base, and no more than both have."""
        S_s, S_t = self.source.S, self.target.S
        return min(max(self.rule.of(S_s), self.rule.of(S_t)), len(S_s), len(S_t))

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
        return self.same_shape and self.r == len(self.source.S)

    @cached_property
    def agree(self) -> bool:
        """Whether the weights are the same but for rounding to half precision, as where two bases share a text encoder."""
        if not self.same_shape:
            return False
        W_s, W_t = self.source.W, self.target.W
        return W_s is W_t or bool((W_t - W_s).norm() <= ROUNDING * W_s.norm())

    @cached_property
    def similarity(self) -> float | None:
        return similarity(self.source, self.target)

    def overlap(self, dW: LowRank) -> float | None:
        """<W_t - W_s, dW> / ||dW||_F^2: the share of the delta that the target has already; None for unequal shapes."""
        if not self.same_shape or not (norm := dW.norm()):
            return None
        D = self.target.W - self.source.W
        common = dW.scale * ((dW.up.to(D).mT @ D) * dW.down.to(D)).sum()
        return common.item() / norm**2


def from_factors(like: LowRank, up: torch.Tensor, down: torch.Tensor) -> LowRank:
    """float64 factors back to an adapter's float32 ones, with the scale of ``like``."""
    return LowRank(up.float(), down.float(), like.scale)
