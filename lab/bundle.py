"""The committed models as whole checkpoints, and back."""

from __future__ import annotations

from lab.paths import CHECKPOINTS, HEADLINE
from lab.zoo import checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED, unpack
from lorax.runner import Runner


def runner_of(base: str) -> Runner:
    """A committed base."""
    tokenizer = unpack(CHECKPOINTS)
    if base not in (BASE, FINETUNE, PRUNED):
        unpack(CHECKPOINTS, HEADLINE)
    return Runner(checkpoint(base), tokenizer)
