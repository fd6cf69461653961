"""Ideas that run the models: mixtures with a copy, a scaffold, a mask of signs, and two with bridge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from unittest import mock

import torch

from lab import variants
from lab.eye import weighted
from lab.variants import COPY, FROM_BRIDGE, VARIANTS, Variant
from lab.zoo import Adapter, checkpoint
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.low_rank import LowRank
from lorax.methods import AUTO, BRIDGE, REFINE, Kinship, bridge, refine
from lorax.models import Answers, Factors, NoisyBatch, adapted, draw
from lorax.models.optimizer import Optimizer
from lorax.models.training import BACKWARD_AT_ONCE
from lorax.options import Options
from lorax.progress import Meter
from lorax.runner import Runner
from lorax.transfer import Layers, Moved, Plan, run
from lorax.transfer.assignment import assignments
from lorax.transfer.teaching import prompts_of

Idea = Callable[[Adapter, str, Checkpoint], tuple[Plan, Moved]]  # adapter, name of the source, target
SCAFFOLD, SIGNS = "refine with a scaffold", "copy where signs agree"
WEIGHTED = "bridge by gradients"
HALVED = {"bridge, half of everything": {"PICTURES": 192, "ROWS": 2048, "SCALING_STEPS": 20}}
MIXED = {"refine and half a copy": 0.5, "refine and a copy": 1.0}
EFFORT = refine.EFFORTS[Kinship.RELATIVES]


def moved_as(variant: Variant, adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    return variants.move(variant, adapter, source, open_checkpoint(checkpoint(source)), target)


def _moved(name: str, adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    return moved_as(VARIANTS[name], adapter, source, target)


def _mixed(share: float, adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """What refine learns, and a share of a copy besides."""
    (planned, refined), (_, copied) = (_moved(name, adapter, source, target) for name in (REFINE, COPY))
    parts = {layer: [dW] for layer, dW in refined.layers.items()}
    for layer, dW in copied.layers.items():
        parts.setdefault(layer, []).append(dW.times(share))
    return planned, _with(refined, ((layer, _sum(its)) for layer, its in parts.items()))


def _scaffolded(adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """What refine learns while a scaffold, a LoRA that is not kept, has the target predict what the source alone predicts.

    Both are learned at once: the scaffold on pictures that the source draws alone, both together on those with the adapter.
    """
    planned, copied = _moved(COPY, adapter, source, target)
    start = run(dataclasses.replace(planned, options=Options(AUTO))).layers
    model, ranks = Runner(target.path), {layer: one.rank for layer, one in assignments(planned).items()}
    own = Factors(refine.started(model, start, ranks), model.device)
    scaffold = Factors(refine.blank(model, ranks), model.device)
    alone, with_adapter = _alone(planned.source.path, tuple(_prompts(planned))), _answers(planned)
    optimizer = Optimizer([*own.parameters, *scaffold.parameters], EFFORT.rate)
    while optimizer.step < EFFORT.steps:
        step = optimizer.step + 1

        def add_gradient(scale: float, step: int = step) -> None:
            for answers, parts in ((alone, [scaffold]), (with_adapter, [scaffold, own])):
                with ExitStack() as stack:
                    for part in parts:
                        stack.enter_context(adapted(model, part.layers(part.parameters)))
                    torch.autograd.backward(scale * _loss(model, answers.at(step, refine.BATCH)))

        optimizer.advance(add_gradient)
    learned = own.layers(optimizer.average[: len(own.parameters)])
    return planned, _with(copied, ((layer, LowRank(dW.up.clone(), dW.down.clone())) for layer, dW in learned.items()))


def _where_signs_agree(adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """A copy without the entries that raise the target's loss on what the source predicts with the adapter (arXiv 2510.09658)."""
    planned, copied = _moved(COPY, adapter, source, target)
    answers, model = _answers(planned), Runner(target.path)
    layers = {layer: model.module(layer) for layer in copied.layers}
    for module in layers.values():
        module.weight.requires_grad_(True)
    for rows in torch.split(torch.arange(len(answers.batch)), BACKWARD_AT_ONCE):
        torch.autograd.backward(_loss(model, answers.batch.rows(rows)))

    kept = ((layer, _against(dW, layers[layer].weight.grad.flatten(1))) for layer, dW in copied.layers.items())
    return planned, _with(copied, kept)


def _against(dW: LowRank, gradient: torch.Tensor) -> LowRank:
    """The entries of a delta (m, n) that go down a gradient (m, n), and 0 for the others."""
    whole = dW.scale * dW.up @ dW.down
    return LowRank.of(whole * (whole * gradient < 0))


def _bridged(otherwise: Mapping[str, object], adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    """Bridge with other constants or functions of its module."""
    with mock.patch.multiple(bridge, **otherwise):
        return _moved(BRIDGE, adapter, source, target)


BY_MODELS: dict[str, Idea] = {
    **{name: partial(_mixed, share) for name, share in MIXED.items()},
    SCAFFOLD: _scaffolded,
    SIGNS: _where_signs_agree,
    FROM_BRIDGE: partial(_moved, FROM_BRIDGE),
    WEIGHTED: partial(_bridged, {"solve": weighted.solve}),
    **{name: partial(_bridged, constants) for name, constants in HALVED.items()},
}


def _prompts(planned: Plan) -> list[str]:
    return prompts_of(planned, EFFORT.pictures)


def _answers(planned: Plan) -> Answers:
    """What the source predicts with the adapter."""
    return _predicted(planned.source.path, planned.adapter.deltas_of(planned.source), _prompts(planned))


@cache
def _alone(source: Path, prompts: tuple[str, ...]) -> Answers:
    """What the source predicts alone, which is the same for every adapter."""
    return _predicted(source, {}, list(prompts))


def _predicted(source: Path, adapter: Mapping[str, LowRank], prompts: list[str]) -> Answers:
    model = Runner(source)
    return Answers.of(model, adapter, draw(model, adapter, prompts, Meter()), prompts, Meter())


def _loss(model: Runner, batch: NoisyBatch) -> torch.Tensor:
    predicted = model.predict(batch.latents, batch.times, model.encode(batch.prompts))
    return (predicted - batch.noise.to(predicted)).square().mean()


def _sum(parts: list[LowRank]) -> LowRank:
    ups = torch.cat([dW.scale * dW.up for dW in parts], 1)
    return LowRank(ups, torch.cat([dW.down for dW in parts]))


def _with(moved: Moved, layers: Iterator[tuple[str, LowRank]]) -> Moved:
    return dataclasses.replace(moved, layers=Layers.of(layers))
