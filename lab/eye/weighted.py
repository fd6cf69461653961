"""Bridge with the target's gradients as weights: what matters little for its prediction counts little in the fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from lorax.low_rank import LowRank
from lorax.methods import Assignment, bridge
from lorax.methods.bridge import Output, SamplePoints, ridge
from lorax.models import Hook, Model, NoisyBatch, effect, hooked, rows_out
from lorax.progress import Meter

RIDGE = 0.1  # of the metric, in units of the mean of its diagonal


def solve(
    target: Model,
    outputs: Mapping[str, Output],
    assignments: Mapping[str, Assignment],
    batch: NoisyBatch,
    points: SamplePoints,
    meter: Meter,
) -> dict[str, LowRank]:
    """Solve as bridge does, with errors weighted by the gradients of the target's loss at its layers' outputs."""
    assigned = {layer: one for layer, one in assignments.items() if one.source in outputs}
    gradients, found = _gradients(target, assigned, batch, points), dict[str, LowRank]()

    def solving(layer: str) -> Hook:
        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            half, of_source, gradient = len(x) // 2, outputs[assigned[layer].source], gradients[layer]
            y_t, y_1 = (points.of(rows_out(module, part), half) for part in torch.split(y, half))
            R = ridge(of_source.alone.float() - of_source.alone.float().mean(0), y_t - y_t.mean(0), meter)
            weights = gradient.norm(dim=1, keepdim=True)
            weights = weights / weights.square().mean().sqrt()
            X = points.of_input(module, x[half:]) * weights
            W = ridge(X, (of_source.change.float() @ R - (y_1 - y_t)) * weights, meter)
            found[layer] = _reduced(X, W, gradient, assigned[layer].rank)
            return torch.cat([y[:half], y[half:] + effect(module, x[half:], found[layer].to(x.device))])

        return hook

    with torch.no_grad():
        bridge.run_on_two_copies(target, batch, {layer: solving(layer) for layer in assigned})
    return found


def _gradients(target: Model, layers: Collection[str], batch: NoisyBatch, points: SamplePoints) -> dict[str, torch.Tensor]:
    """Gradients (rows, m) of the target's loss at its layers' outputs, at the points."""
    found: dict[str, torch.Tensor] = {}

    def recording(layer: str) -> Hook:
        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            y = y if y.requires_grad else y.detach().requires_grad_()

            def keep(gradient: torch.Tensor) -> None:
                found[layer] = points.of(rows_out(module, gradient), len(x))

            y.register_hook(keep)
            return y

        return hook

    with torch.enable_grad(), hooked({layer: target.module(layer) for layer in layers}, recording):
        predicted = target.predict(batch.latents, batch.times, target.encode(batch.prompts))
        (predicted - batch.noise).square().sum().backward()
    return found


def _reduced(X: torch.Tensor, W: torch.Tensor, gradient: torch.Tensor, rank: int) -> LowRank:
    """The delta of this rank whose effect is nearest to X W (rows, m) in the metric of the gradients."""
    metric = (gradient.mT @ gradient).double()
    metric += (RIDGE * metric.diagonal().mean() + torch.finfo(metric.dtype).tiny) * torch.eye(len(metric), dtype=metric.dtype)
    values, vectors = torch.linalg.eigh(metric)
    root, inverse = ((vectors * values**power) @ vectors.mT for power in (0.5, -0.5))
    scaled = W.double() @ root
    effects = X.double() @ scaled
    V = torch.linalg.eigh(effects.mT @ effects).eigenvectors[:, -rank:]
    return LowRank((inverse @ V).float(), (scaled @ V).mT.float().contiguous())
