"""Ideas that run the models: mixtures with a copy, a scaffold, a mask of signs, two with bridge, and refine at length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from unittest import mock

import torch

from lab.eye import weighted
from lab.eye.at_length import AT_LENGTH, at_length
from lab.eye.teaching import answers_of, error, moved_as, predicted, to_train, with_layers
from lab.variants import COPY, FROM_BRIDGE, VARIANTS
from lab.zoo import Adapter
from lorax.checkpoint import Checkpoint
from lorax.low_rank import LowRank
from lorax.methods import BRIDGE, REFINE, Kinship, bridge, refine
from lorax.models import Answers, Factors, adapted
from lorax.models.optimizer import Optimizer
from lorax.models.training import BACKWARD_AT_ONCE
from lorax.runner import Runner
from lorax.transfer import Moved, Plan
from lorax.transfer.teaching import prompts_of

Idea = Callable[[Adapter, str, Checkpoint], tuple[Plan, Moved]]  # adapter, name of the source, target
SCAFFOLD, SIGNS = "refine with a scaffold", "copy where signs agree"
WEIGHTED = "bridge by gradients"
HALVED = {"bridge, half of everything": {"PICTURES": 192, "ROWS": 2048, "SCALING_STEPS": 20}}
MIXED = {"refine and half a copy": 0.5, "refine and a copy": 1.0}
EFFORT = refine.EFFORTS[Kinship.RELATIVES]


def _mixed(share: float, adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """What refine learns, and a share of a copy besides."""
    (planned, refined), (_, copied) = (moved_as(VARIANTS[name], adapter, source, target) for name in (REFINE, COPY))
    parts = {layer: [dW] for layer, dW in refined.layers.items()}
    for layer, dW in copied.layers.items():
        parts.setdefault(layer, []).append(dW.times(share))
    return planned, with_layers(refined, ((layer, _sum(its)) for layer, its in parts.items()))


def _scaffolded(adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """What refine learns while a scaffold, a LoRA that is not kept, has the target predict what the source alone predicts.

    Both are learned at once: the scaffold on pictures that the source draws alone, both together on those with the adapter.
    """
    planned, copied = moved_as(VARIANTS[COPY], adapter, source, target)
    model, ranks, own = to_train(planned)
    scaffold = Factors(refine.blank(model, ranks), model.device)
    prompts = tuple(prompts_of(planned, EFFORT.pictures))
    alone, with_adapter = _alone(planned.source.path, prompts), answers_of(planned, EFFORT.pictures)
    optimizer = Optimizer([*own.parameters, *scaffold.parameters], EFFORT.rate)
    while optimizer.step < EFFORT.steps:
        step = optimizer.step + 1

        def add_gradient(scale: float, step: int = step) -> None:
            for answers, parts in ((alone, [scaffold]), (with_adapter, [scaffold, own])):
                with ExitStack() as stack:
                    for part in parts:
                        stack.enter_context(adapted(model, part.layers(part.parameters)))
                    torch.autograd.backward(scale * error(model, answers.at(step, refine.BATCH)))

        optimizer.advance(add_gradient)
    learned = own.layers(optimizer.average[: len(own.parameters)])
    return planned, with_layers(copied, ((layer, LowRank(dW.up.clone(), dW.down.clone())) for layer, dW in learned.items()))


def _where_signs_agree(adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """A copy without the entries that raise the target's loss on what the source predicts with the adapter (arXiv 2510.09658)."""
    planned, copied = moved_as(VARIANTS[COPY], adapter, source, target)
    answers, model = answers_of(planned, EFFORT.pictures), Runner(target.path)
    layers = {layer: model.module(layer) for layer in copied.layers}
    for module in layers.values():
        module.weight.requires_grad_(True)
    for rows in torch.split(torch.arange(len(answers.batch)), BACKWARD_AT_ONCE):
        torch.autograd.backward(error(model, answers.batch.rows(rows)))

    kept = ((layer, _against(dW, layers[layer].weight.grad.flatten(1))) for layer, dW in copied.layers.items())
    return planned, with_layers(copied, kept)


def _against(dW: LowRank, gradient: torch.Tensor) -> LowRank:
    """The entries of a delta (m, n) that go down a gradient (m, n), and 0 for the others."""
    whole = dW.scale * dW.up @ dW.down
    return LowRank.of(whole * (whole * gradient < 0))


def _bridged(otherwise: Mapping[str, object], adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """Bridge with other constants or functions of its module."""
    with mock.patch.multiple(bridge, **otherwise):
        return moved_as(VARIANTS[BRIDGE], adapter, source, target)


BY_MODELS: dict[str, Idea] = {
    **{name: partial(_mixed, share) for name, share in MIXED.items()},
    SCAFFOLD: _scaffolded,
    SIGNS: _where_signs_agree,
    AT_LENGTH: at_length,
    FROM_BRIDGE: partial(moved_as, VARIANTS[FROM_BRIDGE]),
    WEIGHTED: partial(_bridged, {"solve": weighted.solve}),
    **{name: partial(_bridged, constants) for name, constants in HALVED.items()},
}


@cache
def _alone(source: Path, prompts: tuple[str, ...]) -> Answers:
    """What the source predicts alone, which is the same for every adapter."""
    return predicted(source, {}, list(prompts))


def _sum(parts: list[LowRank]) -> LowRank:
    ups = torch.cat([dW.scale * dW.up for dW in parts], 1)
    return LowRank(ups, torch.cat([dW.down for dW in parts]))
