"""Transfer methods: one file each, registered here with the paper that each comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorax.adapter import LowRank
from lorax.methods import auto, copy, lorax, prolora
from lorax.methods.bases import Bases

LORAX_PAPER = "https://arxiv.org/abs/2501.16559"
PROLORA_PAPER = "https://arxiv.org/abs/2506.04244"
Move = Callable[[LowRank, Bases], tuple[LowRank | None, str]]


@dataclass(frozen=True)
class Method:
    """``move(dW_s, bases)`` returns dW_t and a few words on what was done; None instead of dW_t when it cannot be done.

    A copy returns dW_s itself. ``judge(similarities of the paired layers, None where shapes differ)`` returns why such a pair of
    bases is declined, or None. ``strength(overlap)`` is what the whole moved adapter is multiplied with, when the target has that
    share of it already. ``settled`` moves a large layer that was not measured, where those that were (``lorax.moving.sample``)
    leave nothing to decide; without it each layer is measured by itself.
    """

    name: str
    title: str
    paper: str
    move: Move
    gated: bool  # whether --threshold skips dissimilar layers
    judge: Callable[[Sequence[float | None]], str | None] = lambda similarities: None
    strength: Callable[[float], float] = lambda overlap: 1.0
    settled: Move | None = None


METHODS = {
    method.name: method
    for method in (
        Method(
            "auto",
            "decide per layer by what is measured, and leave out what the target already has of the LoRA",
            "",
            auto.move,
            gated=False,
            judge=auto.judge,
            strength=auto.strength,
            settled=auto.copied,
        ),
        Method("copy", "copy to the matched layer", "", copy.move, gated=False),
        Method("lorax", "LoRA-X: project onto the target's subspace", LORAX_PAPER, lorax.move, gated=True),
        Method("prolora", "ProLoRA: subspace and null space", PROLORA_PAPER, prolora.move, gated=True),
        Method("prolora-cross", "ProLoRA with the cross terms kept", PROLORA_PAPER, prolora.move_with_cross_terms, gated=True),
    )
}

__all__ = ["METHODS", "Bases", "Method"]
