"""Gradients that half precision does not round to zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lorax.errors import LoraxError

START = 2.0**16  # a power of two, so that nothing is rounded in float32 and bfloat16
LONGEST = 1.0  # norm of a step's gradient


class LossScale:
    """What a loss is multiplied by before its backward pass through a model in float16, whose smallest number is 6e-8.

    Halved whenever a gradient overflows; no step is taken then (arXiv 1710.03740, section 3.2).
    """

    def __init__(self) -> None:
        self.value = START

    def step(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
        """With the gradients of the scaled loss, clipped: whether one was taken. Raises LoraxError where no scale is left."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= self.value
        if nn.utils.clip_grad_norm_(parameters, LONGEST).isfinite():
            optimizer.step()
            return True
        self.value /= 2
        if self.value < 1:
            raise LoraxError(
                "the target's gradients are NaN or infinite. Its weights overflow in the precision in which it runs, or are "
                "damaged; use another copy of the checkpoint."
            )
        return False
