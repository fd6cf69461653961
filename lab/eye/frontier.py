"""Curves of style against content over the strength, and what they are worth beside the native LoRA's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lab.stats import Interval

DRAWS = 1000
BETWEEN = 8  # points that are laid on a straight line between two strengths
Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """What one adapter gives on one target, each float (strengths, prompts); the first strength is 0, the target alone.

    ``style``: how sure the judge is of the wanted style. ``content``: share of pictures whose subject it finds.
    """

    strengths: tuple[float, ...]
    style: Array
    content: Array

    def at(self, counts: Array) -> tuple[Array, Array]:
        """Style and content (points, draws) along the curve, if prompts count as often as ``counts`` (prompts, draws) says."""
        along = np.linspace(0, len(self.strengths) - 1, (len(self.strengths) - 1) * BETWEEN + 1)
        low = np.minimum(along.astype(int), len(self.strengths) - 2)
        share = (along - low)[:, None]
        found = []
        for values in (self.style, self.content):
            means = values @ counts / len(counts)
            found.append((1 - share) * means[low] + share * means[low + 1])
        return found[0], found[1]

    def area(self, counts: Array) -> Array:
        """The area under the best style at each content, (draws,): the hypervolume indicator.

        Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms (1998), with (0, 0) as the reference.
        """
        style, content = self.at(counts)
        order = np.argsort(-content, axis=0, kind="stable")
        content = np.take_along_axis(content, order, 0)
        best = np.maximum.accumulate(np.take_along_axis(style, order, 0), 0)
        lower = np.concatenate([content[1:], np.zeros_like(content[:1])])
        return ((content - lower) * best).sum(0)

    def best_style(self, counts: Array, content: Array) -> Array:
        """The most style (draws,) at which at least so much content (draws,) is kept; 0 if it never is."""
        style, kept = self.at(counts)
        return np.where(kept >= content - 1e-9, style, 0.0).max(0)


@dataclass(frozen=True)
class Judged:
    """A moved adapter's curve beside its native LoRA's, and a copy's, which is the opponent where layers can be copied."""

    moved: Curve
    native: Curve
    copy: Curve | None


def frontier(adapters: Sequence[Judged]) -> Interval:
    """The area of the moved adapters as a share of their natives', mean over the adapters."""
    return _mean(adapters, lambda one, counts: one.moved.area(counts) / one.native.area(counts))


def less_copy(adapters: Sequence[Judged]) -> Interval:
    """The same, less a copy's: paired, with both along their whole curves, so a copy is at its best strength."""

    def gain(one: Judged, counts: Array) -> Array:
        assert one.copy
        return (one.moved.area(counts) - one.copy.area(counts)) / one.native.area(counts)

    return _mean(adapters, gain)


def style_at_native_content(adapters: Sequence[Judged]) -> Interval:
    """The best style at the content that the native LoRA keeps at strength 1, as a share of the native's style there."""

    def share(one: Judged, counts: Array) -> Array:
        position = one.native.strengths.index(1.0)
        style, content = ((values @ counts / len(counts))[position] for values in (one.native.style, one.native.content))
        return one.moved.best_style(counts, content) / np.maximum(style, 1e-3)

    return _mean(adapters, share)


def _mean(adapters: Sequence[Judged], of: object) -> Interval:
    """The mean over adapters; adapters and prompts are drawn anew. All adapters share the draws of prompts."""
    prompts = adapters[0].native.style.shape[1]
    assert callable(of)
    values = np.stack([of(one, _counts(prompts)) for one in adapters])
    whole = np.stack([of(one, np.ones((prompts, 1)))[0] for one in adapters])
    chosen = np.random.default_rng(1).integers(len(adapters), size=values.shape)
    low, high = np.quantile(np.take_along_axis(values, chosen, 0).mean(0), [0.025, 0.975])
    return Interval(float(whole.mean()), float(low), float(high))


@cache
def _counts(prompts: int) -> Array:
    """How often each prompt is drawn, (prompts, DRAWS)."""
    return np.random.default_rng(0).multinomial(prompts, [1 / prompts] * prompts, size=DRAWS).T.astype(float)
