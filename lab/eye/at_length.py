"""Refine at length: what a target learns from the source if the work does not matter."""

from __future__ import annotations

from unittest import mock

import torch
from torch import nn

from lab.eye.teaching import answers_of, error, moved_as, to_train, with_layers
from lab.loop import train
from lab.paths import RUNS
from lab.variants import COPY, VARIANTS
from lab.zoo import Adapter
from lorax.checkpoint import Checkpoint
from lorax.models import adapted, examples
from lorax.transfer import Moved, Plan

AT_LENGTH = "refine at length"
PICTURES, COPIES = 512, 4
STEPS, BATCH, RATE = 800, 16, 2e-3  # the rate falls by a cosine
SETTINGS = {"steps": STEPS, "rate": RATE, "warmup": 20, "decay": 0.97, "weight_decay": 0.0}


def at_length(adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """What refine learns within a family from 8 times the pictures, in 16 times the examples."""
    planned, copied = moved_as(VARIANTS[COPY], adapter, source, target)
    with mock.patch.multiple(examples, COPIES=COPIES, ANSWERS=PICTURES * COPIES):
        answers = answers_of(planned, PICTURES).batch
    model, _, factors = to_train(planned)

    def loss(_: int) -> torch.Tensor:
        """The error on examples that are drawn with the loop's seed of the step."""
        with adapted(model, factors.layers(factors.parameters)):
            return error(model, answers.rows(torch.randperm(len(answers))[:BATCH]))

    name = f"{AT_LENGTH} {adapter.name} {source} {target.path.stem}".replace(" ", "-")
    averaged = train(name, RUNS, nn.ParameterList(factors.parameters), loss, **SETTINGS)
    learned = factors.layers([value.detach() for value in averaged])
    return planned, with_layers(copied, learned.items())
