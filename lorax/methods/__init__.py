"""Transfer methods: one file each, registered here with the paper that each comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorax.low_rank import LowRank
from lorax.methods import auto, copy, lorax, prolora
from lorax.methods.weight_pair import Bases

LORAX_PAPER = "https://arxiv.org/abs/2501.16559"
AUTO, BRIDGE, REFINE = "auto", "bridge", "refine"
PROLORA_PAPER = "https://arxiv.org/abs/2506.04244"
Move = Callable[[LowRank, Bases], tuple[LowRank | None, str]]


@dataclass(frozen=True)
class Method:
    """``move(dW_s, bases)`` returns dW_t and a few words on what was done; None instead of dW_t when it cannot be done.

    A copy returns dW_s itself. ``declines``: moves nothing between bases that are not related. ``strength(overlap)`` is what the
    whole moved adapter is multiplied with, when the target has that share of it already. ``settled`` moves a large layer that was
    not measured, where those that were leave nothing to decide; without it each is measured by itself.
    """

    name: str
    title: str
    paper: str
    move: Move
    gated: bool = False  # whether --threshold skips dissimilar layers
    declines: bool = False
    strength: Callable[[float], float] = lambda overlap: 1.0
    settled: Move | None = None


@dataclass(frozen=True)
class Behavioural:
    """A method that runs both models instead of comparing weights; ``lorax.transfer.by_models`` does."""

    name: str
    title: str


METHODS = {
    method.name: method
    for method in (
        Method(
            AUTO,
            "decide per layer by what is measured, and leave out what the target already has of the LoRA",
            "",
            auto.move,
            gated=False,
            declines=True,
            strength=auto.strength,
            settled=auto.copied,
        ),
        Method("copy", "copy to the matched layer", "", copy.move, gated=False, settled=copy.move),
        Method(
            "lorax",
            "LoRA-X: keep what lies in the directions that matter most in the target",
            LORAX_PAPER,
            lorax.move,
            gated=True,
        ),
        Method(
            "prolora",
            "ProLoRA: carry over what lies in those directions and what lies outside, each by itself",
            PROLORA_PAPER,
            prolora.move,
            gated=True,
        ),
        Method(
            "prolora-cross",
            "the same, with what leads from one to the other",
            PROLORA_PAPER,
            prolora.move_with_cross_terms,
            gated=True,
        ),
    )
}
BEHAVIOURAL = {
    method.name: method
    for method in (
        Behavioural(BRIDGE, "run both models and fit each layer to what the source's does; for unrelated bases, takes minutes"),
        Behavioural(
            REFINE, "train the target on what the source draws with the LoRA; best for unrelated bases, takes minutes to hours"
        ),
    )
}


def titles() -> dict[str, str]:
    """Of every method, by name."""
    return {name: method.title for name, method in METHODS.items()} | {name: one.title for name, one in BEHAVIOURAL.items()}


__all__ = ["AUTO", "BEHAVIOURAL", "BRIDGE", "METHODS", "REFINE", "Bases", "Behavioural", "Method", "titles"]
