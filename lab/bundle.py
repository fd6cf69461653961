"""The committed models as whole checkpoints, and back."""

from __future__ import annotations

from lab.paths import CHECKPOINTS, HEADLINE
from lab.zoo import checkpoint
from lorax.demo.bundle import unpack
from lorax.runner import Runner


def runner_of(base: str) -> Runner:
    """A committed base."""
    tokenizer = unpack(CHECKPOINTS)
    if HEADLINE.is_dir():
        unpack(CHECKPOINTS, HEADLINE)
    return Runner(checkpoint(base), tokenizer)
