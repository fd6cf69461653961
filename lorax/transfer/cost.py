"""Estimates the time and memory of bridge and refine, before a model is opened, phase by phase.

How often each model runs follows from the methods' constants, and the operations of a run from the bases' headers
(``lorax.transfer.work``). The speed of the device is measured on a small block of the model's width (``lorax.models.speed``), and
so is the share of it that a job gets beside others.
What a part of a model reaches of that speed was measured on the lab's models (docs/behaviour.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from lorax.checkpoint import Checkpoint, component_of
from lorax.devices import pick_device, precision
from lorax.files import Cache
from lorax.methods import BRIDGE, bridge, runs_models, weight_method
from lorax.models import (
    AT_ONCE,
    PIXELS,
    Operations,
    examples,
    operations,
    sampling,
    share_of,
    speed_of,
    speed_of_solving,
    training,
)
from lorax.progress import COMPARING, FITTING, MOVING, Phase, hashing, opening
from lorax.subspace import SMALL
from lorax.transfer.assignment import assignments
from lorax.transfer.expected import Cost
from lorax.transfer.planning import Plan
from lorax.transfer.resume import has_drawn
from lorax.transfer.work import Stage, is_answered, pictures_of, solving, stages

# Shares of a block's speed; that of the UNet is with an adapter on it.
UNET, TRAINED, TEXT, DECODED, READ = 0.45, 0.43, 0.4, 1.05, 0.45
BACKWARD = 2  # operations of a backward pass, in forward passes
LAYER, HASHED, OPENED, MODULES = 3e-3, 4e8, 1.6e8, 0.3  # seconds a layer; bytes hashed, parameters read a second; seconds a model
SOLVED = 0.55  # speed of regressions, relative to products in float64
EIGEN = 24.0  # operations of comparing two layers, in cubes of the smaller side
HELD = 3  # values in memory at a time, relative to those of the largest layer, or of a block's layers together
STATES = 6  # copies of a trained factor: itself, its gradient, AdamW's two moments, the average, and the best average
FLOAT, DOUBLE = 4, 8  # bytes
CHANNELS = 4  # of latents
GRAMS = 4  # matrices of a regression that are as large as its Gram matrix
PROGRAM = 350_000_000  # bytes of the program with its packages, in main memory


def estimate(
    plan: Plan,
    method: str | None = None,
    *,
    cache: Cache | None = None,
    alone: bool = False,
) -> Cost:
    """Estimate the cost of moving one adapter by the plan's method or another, if no training stops early.

    ``cache`` may hold what was drawn earlier.
    ``alone``: on a machine that does nothing else, so that the estimate stays the same, whatever others compute.
    """
    job = _Job.of(plan, method or plan.options.method, cache, alone)
    return Cost(sum(phase.seconds for phase in job.phases()), job.bytes(), job.device.type)


def phases(plan: Plan, cache: Cache | None = None) -> list[Phase]:
    """Return the phases of moving one adapter by the plan's method, which runs the models, as ``estimate`` does."""
    hashed = [plan.source, plan.target] if cache is not None and cache.is_on_disk else []  # the keys contain the hashes
    return [*hashing_of(hashed), *_Job.of(plan, plan.options.method, cache).phases()]


def moving(plans: Sequence[Plan], name: str = MOVING, *, alone: bool = False) -> Phase:
    """Return the phase of moving adapters by weights; ``alone`` as in ``estimate``."""
    method = plans[0].options.method
    measures_all = not runs_models(method) and weight_method(method).gated
    targets = [plan.target.matrix(pair.target) for plan in plans for pair in plan.pairs.values() if pair and pair.target]
    sides = [min(shape) for shape in targets if measures_all or min(shape) <= SMALL]
    seconds = LAYER * len(targets) + sum(EIGEN * side**3 for side in sides) / speed_of_solving()
    return Phase(name, seconds / (1.0 if alone else share_of(torch.device("cpu"))))


def hashing_of(bases: Iterable[Checkpoint]) -> list[Phase]:
    """Return the phases of hashing bases."""
    return [Phase(hashing(base.title), base.identity.unread / HASHED) for base in bases]


def total(costs: Iterable[Cost]) -> Cost:
    """Return the cost of moving several adapters one after the other."""
    found = list(costs)
    return Cost(sum(one.seconds for one in found), max(one.bytes for one in found), found[0].device)


@dataclass(frozen=True)
class _Job:
    """A job whose cost is asked for."""

    plan: Plan
    device: torch.device
    models: tuple[Operations, Operations]
    stages: list[Stage]
    rows: int  # points at which bridge compares layers; 0 for refine
    solved: list[tuple[int, int, int]]  # shapes of the layers that bridge solves: outputs of the source's, shape of the target's
    factors: int  # values that are trained
    deltas: int  # bytes of what the adapter adds to the source, which formats other than LoRA fill whole matrices with
    answers: int  # examples that refine keeps, in which the source has predicted the noise
    alone: bool  # whether nothing else is computed meanwhile

    @classmethod
    def of(cls, plan: Plan, method: str, cache: Cache | None, alone: bool = False) -> "_Job":
        models, assigned = (operations(plan.source), operations(plan.target)), assignments(plan)
        outs = [models[0].layers[one.source].out for one in assigned.values()]
        shapes = [(layer.out, layer.channels * layer.taps) for layer in map(models[1].layers.__getitem__, assigned)]
        is_bridge = method == BRIDGE
        kinship = plan.kinship(related=False)  # relatives take as much work, and to tell them takes a look at weights
        drawn = pictures_of(method, plan.running, models, kinship)
        done = stages(
            method,
            plan.running,
            models,
            of_text=any(component_of(target) != "unet" for target in assigned),
            kinship=kinship,
            drawn=has_drawn(plan, cache, drawn, answered=is_answered(method, kinship)),
        )
        ranks = [assigned_to.rank for assigned_to in assigned.values()]
        factors = sum(ranks) if is_bridge else sum(rank * (m + n) for rank, (m, n) in zip(ranks, shapes, strict=True))
        solved = [(out, *shape) for out, shape in zip(outs, shapes, strict=True)] if is_bridge else []
        answers = examples.answers_on(drawn) if is_answered(method, kinship) else 0
        deltas = FLOAT * sum(_values(plan, name, pair.source) for name, pair in plan.pairs.items() if pair)
        device, rows = pick_device(plan.options.device), bridge.points_for(sum(outs))
        return cls(plan, device, models, done, rows, solved, factors, deltas, answers, alone)

    def phases(self) -> list[Phase]:
        """Return the phases with their seconds."""
        found, of_target = [moving([self.plan], COMPARING, alone=self.alone)], None
        for stage in self.stages:
            if stage.of_target is not of_target:
                of_target = stage.of_target
                base, of = (self.plan.source, self.plan.target)[of_target], self.models[of_target]
                found.append(Phase(opening(base.path.stem), MODULES + of.parameters / OPENED))
            found.append(Phase(stage.phase, self._seconds(stage)))
        return found

    def _seconds(self, stage: Stage) -> float:
        of, work = self.models[stage.of_target], stage.work
        again = BACKWARD + (of.size > training.LARGE)  # blocks of a large model are recomputed
        unet = (work.predicted - work.trained) * of.predict / UNET + work.trained * (1 + again) * of.predict / TRAINED
        others = work.encoded * of.encode / TEXT + work.decoded * of.decode / DECODED + work.read * of.read / READ
        seconds = (unet + others) / speed_of(self.device, precision(self.device), of.width) / self._share_of(self.device)
        if stage.phase == FITTING:
            solved = sum(solving(self.rows, *shapes) for shapes in self.solved) / SOLVED / speed_of_solving()
            seconds += solved / self._share_of(torch.device("cpu"))
        return seconds

    def _share_of(self, device: torch.device) -> float:
        return 1.0 if self.alone else share_of(device)

    def bytes(self) -> int:
        """Return the bytes at the peak: in the graphics card's memory if that computes, else of the whole program."""
        on_card = self.device.type != "cpu"
        held = max(self._bytes(stage, precision(self.device).itemsize) for stage in self.stages)
        return held if on_card else held + PROGRAM + self._in_main_memory()

    def _in_main_memory(self) -> int:
        """Return the bytes of the adapter, of the pictures or of the answers on them, and of what bridge keeps of the source."""
        side = self.models[0].size
        drawn = max(stage.work.read for stage in self.stages)
        pictures = drawn * 3 * (PIXELS * side) ** 2
        answers = self.answers * 2 * torch.half.itemsize * CHANNELS * side**2
        return self.deltas + pictures + answers + 2 * torch.half.itemsize * self.rows * sum(out for out, _, _ in self.solved)

    def _bytes(self, stage: Stage, width: int) -> int:
        """Return the bytes of the weights, of the values between layers, and of what is trained or solved."""
        of, work = self.models[stage.of_target], stage.work
        layers = [layer.values for layer in of.layers.values()]
        values = HELD * work.at_once * max(layers)
        trained, solved = 0, 0
        if work.trained:
            at_once = min(work.at_once, sampling.batch_size(training.BACKWARD_AT_ONCE, of.size))
            values = max(values, at_once * sum(layers) * HELD // (2 if of.size <= training.LARGE else 8))
            trained = STATES * FLOAT * self.factors
        if stage.phase == FITTING and self.device.type == "cpu":
            sizes = (self.rows * (2 * n + 4 * m) + GRAMS * min(n, self.rows) ** 2 for _, m, n in self.solved)
            solved = DOUBLE * max(sizes, default=0)
        coded = min(work.decoded + work.read, sampling.batch_size(AT_ONCE, of.size))
        coded *= HELD * FLOAT * max((layer.values for layer in of.autoencoder), default=0)
        weights = width * of.parameters + FLOAT * sum(layer.parameters for layer in of.autoencoder)
        deltas = 0 if stage.of_target or self.device.type == "cpu" else self.deltas  # a copy on the card
        return weights + width * values + trained + solved + coded + deltas


def _values(plan: Plan, name: str, layer: str) -> int:
    """Return how many values the factors of an adapter's layer have."""
    stored, (m, n) = plan.adapter.layers[name], plan.source.matrix(layer)
    return (stored.rank or 0) * (m + n) if stored.is_low_rank else m * n
