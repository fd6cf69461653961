"""Bridge: fits each target layer, in closed form, to the effect of the adapter on the source's layer.

dW_t x' = R (y_s' - y_s) - (y' - y_t) is solved for dW_t by ridge regression, layer by layer in the order in which the target runs
them. x' and y' are the layer's input and output once all layers before it are adapted. y_s' and y_s are the source layer's output
with the adapter and without it, on the same pictures and captions. R maps the source layer's output to the target layer's, and is
fitted on y_s and y_t. The models may differ in width and resolution: layers are compared at the same points of the pictures. In
the end, the strength of each direction is trained on the pictures.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from lorax.low_rank import LowRank
from lorax.methods.job import Assignment, Job, Kinship
from lorax.models import (
    Hook,
    Lesson,
    Model,
    NewNoise,
    NoisyBatch,
    Scales,
    check,
    check_finite,
    effect,
    hooked,
    rows_in,
    rows_out,
    sampling,
    train,
)
from lorax.progress import FITTING, WATCHING, Meter

ROWS = 4096  # points at which layers are compared
SOURCE_BYTES = 4 << 30  # limit for the source's outputs; a very large adapter is compared at fewer points
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # in units of the mean of the Gram matrix's diagonal
FIRST_RIDGE = 2  # the number of the one that is tried first
HELD_OUT = 0.2  # share of the rows by which a ridge is chosen
PICTURES = 384  # with a side of 8 in latents; of larger ones fewer show as many points
FEWEST = 8  # pictures, however large they are; they run in one batch of two copies, for which SDXL takes 11 GB
SCALING_STEPS, SCALING_BATCH, SCALING_RATE = 40, 16, 3e-2  # the best ones in docs/behaviour.md


def fit(job: Job) -> dict[str, LowRank]:
    """Return a delta for each assigned target layer. Raises LoraxError if a model cannot be run."""
    recorded, meter = {one.source for one in job.assignments.values()}, job.meter
    with job.opened(job.source) as source:
        count = pictures_seen(job.pictures, max(source.size, check(job.target).size))
        pictures = job.teacher.stored(count) or job.teacher.draw(source, count)
        batch = sampling.noised(source, pictures.latents_in(source, meter), pictures.prompts, count, seed=0)
        width = sum(source.base.matrix(layer)[0] for layer in recorded)
        points = SamplePoints.drawn(count, points_for(width))
        outputs = record(source, job.deltas, recorded, batch, points, meter)
    with job.opened(job.target) as target:
        latents = pictures.latents_in(target, meter)
        batch = sampling.noised(target, latents, pictures.prompts, count, seed=0)
        layers = solve(target, outputs, job.assignments, batch, points, meter)
        lesson = Lesson(NewNoise(target, latents, pictures.prompts), SCALING_STEPS, SCALING_BATCH, SCALING_RATE)
        return train(target, Scales(layers, target.device), lesson, meter)


def pictures_of(asked: int | None, kinship: Kinship) -> int:
    """Return how many small pictures the source would draw: the user's number, or the default."""
    return asked or PICTURES


def pictures_seen(asked: int, size: int) -> int:
    """Return how many pictures the models see in place of ``asked`` small ones. ``size`` is the side of the larger latents."""
    return max(FEWEST, sampling.batch_size(asked, size))


@dataclass(frozen=True)
class SamplePoints:
    """Points in pictures, for layers of any resolution: picture numbers ``item`` (rows,) and ``point`` (rows, 2) in [0, 1)."""

    item: torch.Tensor
    point: torch.Tensor

    @classmethod
    def drawn(cls, count: int, rows: int) -> "SamplePoints":
        """Draw random points in so many pictures, ordered by picture, so that the last rows have pictures of their own."""
        point = torch.rand(rows, 2, generator=torch.Generator().manual_seed(0))
        return cls(torch.arange(rows) * count // rows, point)

    def of(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """Return the rows, float32 on the CPU, of values (count * positions, C) on a grid, on tokens or at one position."""
        positions, (y, x) = len(values) // count, self.point.unbind(1)
        side = math.isqrt(positions)
        grid = (y * side).long() * side + (x * side).long()
        within = grid if side * side == positions else (y * positions).long()
        return values[(self.item * positions + within).to(values.device)].float().cpu()

    def of_input(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return the rows of the module's input x (count, ...), picture by picture to save memory."""
        found = []
        for number in range(len(x)):
            point = self.point[self.item == number]
            points = SamplePoints(torch.zeros(len(point), dtype=torch.long), point)
            found.append(points.of(rows_in(module, x[number : number + 1]), 1))
        return torch.cat(found)


@dataclass(frozen=True)
class Output:
    """A source layer's output at the points, float16 (rows, m), and the adapter's change of it."""

    alone: torch.Tensor
    change: torch.Tensor


def points_for(width: int) -> int:
    """Return the number of points at which layers are compared whose outputs have ``width`` values in all."""
    return min(ROWS, SOURCE_BYTES // max(1, 2 * torch.half.itemsize * width))


@torch.no_grad()
def record(
    source: Model, adapter: Mapping[str, LowRank], layers: Collection[str], batch: NoisyBatch, points: SamplePoints, meter: Meter
) -> dict[str, Output]:
    """Return the outputs of the source's layers, from one run on two copies of the batch, of which the second is adapted."""
    found: dict[str, Output] = {}
    seen, total = itertools.count(), len({*adapter, *layers})
    meter.at(0, total, WATCHING)

    def recording(layer: str) -> Hook:
        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            meter.at(next(seen), total, WATCHING)
            half = len(x) // 2
            if layer in deltas:
                y = torch.cat([y[:half], y[half:] + effect(module, x[half:], deltas[layer])])
            if layer in layers:
                alone, adapted = (points.of(rows_out(module, part), half) for part in torch.split(y, half))
                found[layer] = Output(_kept(alone, source), _kept(adapted - alone, source))
            return y

        return hook

    deltas = {layer: dW.to(source.device) for layer, dW in adapter.items()}
    run_on_two_copies(source, batch, {layer: recording(layer) for layer in {*adapter, *layers}})
    return found


def _kept(values: torch.Tensor, model: Model) -> torch.Tensor:
    """Return values in half precision, but those that exceed it. Raises LoraxError if the model's overflow."""
    if (half := values.half()).isfinite().all():
        return half
    check_finite(model, values)
    return values


@torch.no_grad()
def solve(
    target: Model,
    outputs: Mapping[str, Output],
    assignments: Mapping[str, Assignment],
    batch: NoisyBatch,
    points: SamplePoints,
    meter: Meter,
) -> dict[str, LowRank]:
    """Return the deltas by target layer, except for unused layers, from one run as in ``record``, adapted layer by layer."""
    found: dict[str, LowRank] = {}
    meter.at(0, len(assignments), FITTING)

    def solving(layer: str) -> Hook:
        assigned = assignments[layer]

        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            meter.at(len(found), len(assignments), FITTING)
            half = len(x) // 2
            y_s, change = outputs[assigned.source].alone.float(), outputs[assigned.source].change.float()
            y_t, y_1 = (points.of(rows_out(module, part), half) for part in torch.split(y, half))
            x_1 = points.of_input(module, x[half:])
            check_finite(target, y_t, y_1)
            R = ridge(y_s - y_s.mean(0), y_t - y_t.mean(0), meter)
            found[layer] = _reduced(x_1, ridge(x_1, change @ R - (y_1 - y_t), meter), assigned.rank)
            return torch.cat([y[:half], y[half:] + effect(module, x[half:], found[layer].to(x.device))])

        return hook

    run_on_two_copies(target, batch, {layer: solving(layer) for layer, one in assignments.items() if one.source in outputs})
    return found


def run_on_two_copies(model: Model, batch: NoisyBatch, hooks: Mapping[str, Hook]) -> None:
    """Run the model once, on the batch and a copy of it: layers' inputs and outputs have (2 B, ...) rows, the copy's last."""
    with hooked({layer: model.module(layer) for layer in hooks}, hooks.__getitem__):
        model.predict(batch.latents.repeat(2, 1, 1, 1), batch.times.repeat(2), model.encode(batch.prompts * 2))


def ridge(X: torch.Tensor, Y: torch.Tensor, meter: Meter | None = None) -> torch.Tensor:
    """Return argmin_W ||Y - X W||^2 + lambda ||W||^2, float32 (n, m), for X (rows, n) and Y (rows, m).

    lambda is chosen from RIDGES by cross-validation on the last rows, of which the error has one minimum, as a rule: so only the
    neighbours of the best one so far are tried. The result is 0 if none predicts these rows better than 0 does.
    """
    X, Y = X.double(), Y.double()
    cut = int(len(X) * (1 - HELD_OUT))
    solve = _solver(X[:cut], Y[:cut])

    @cache
    def error(number: int) -> float:
        if meter:
            meter.tick()
        return (Y[cut:] - X[cut:] @ solve(RIDGES[number])).square().sum().item()

    best, last = FIRST_RIDGE, None
    while best != last:
        last, best = best, min(range(max(0, best - 1), min(len(RIDGES), best + 2)), key=error)
    if error(best) >= Y[cut:].square().sum().item():
        return torch.zeros(X.shape[1], Y.shape[1])
    return _solver(X, Y)(RIDGES[best]).float()


def _solver(X: torch.Tensor, Y: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """Return a function that solves the regression for a lambda, by a Cholesky decomposition of the smaller Gram matrix.

    (X'X + l)^-1 X' = X' (XX' + l)^-1. One eigendecomposition for all lambdas would fail on some rank-deficient X.
    """
    is_wide = X.shape[1] > len(X)
    gram, right = (X @ X.mT, Y) if is_wide else (X.mT @ X, X.mT @ Y)
    size = X.square().sum() / X.shape[1] + torch.finfo(X.dtype).tiny
    unit = torch.eye(len(gram), dtype=gram.dtype) * size

    def solve(ridge: float) -> torch.Tensor:
        solution = torch.cholesky_solve(right, torch.linalg.cholesky(gram + ridge * unit))
        return X.mT @ solution if is_wide else solution

    return solve


def _reduced(X: torch.Tensor, W: torch.Tensor, rank: int) -> LowRank:
    """Return the delta (m, n) of this rank whose effect on X (rows, n) is nearest to X W (reduced-rank regression)."""
    effect = (X @ W).double()
    if len(effect) < effect.shape[1]:  # the smaller Gram matrix again
        U = torch.linalg.eigh(effect @ effect.mT).eigenvectors[:, -rank:]
        V = torch.linalg.qr(effect.mT @ U).Q.float()
    else:
        V = torch.linalg.eigh(effect.mT @ effect).eigenvectors[:, -rank:].float()
    return LowRank(V.contiguous(), (W @ V).mT.contiguous())
