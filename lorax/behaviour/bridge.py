"""The closed form: each target layer is given what makes its output change as the source's does.

Layer by layer, in the order in which the target runs them, dW_t x' = R (y_s' - y_s) - (y' - y_t) is solved for dW_t by ridge
regression. x' and y' are what the layer sees and gives once all layers before it are adapted; y_s' and y_s what the source's
layer gives with the adapter and without, on the same pictures and captions; R carries the source layer's output to the target
layer's and is fitted on y_s and y_t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorax.adapter import LowRank
from lorax.behaviour.content import Content, Tick
from lorax.behaviour.live import Hook, adapted, effect, hooked, rows_in, rows_out
from lorax.behaviour.model import Model

ROWS = 4096  # positions that are kept of a layer, drawn at random
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # in units of the mean of the Gram matrix's diagonal
HELD_OUT = 0.2


@dataclass(frozen=True)
class Outputs:
    """Source layer -> what it gives at the drawn positions, float32 (rows, m), without and with the adapter."""

    alone: dict[str, torch.Tensor]
    adapted: dict[str, torch.Tensor]


def record(source: Model, adapter: Mapping[str, LowRank], layers: list[str], content: Content, tick: Tick) -> Outputs:
    alone = _outputs(source, layers, content)
    tick("recording what the source's layers do")
    with adapted(source, adapter):
        changed = _outputs(source, layers, content)
    tick("recording what the adapter changes")
    return Outputs(alone, changed)


@torch.no_grad()
def fit(
    target: Model, outputs: Outputs, feeds: Mapping[str, tuple[str, int]], content: Content, tick: Tick
) -> dict[str, LowRank]:
    """Target layer -> delta, in one run of the target on two copies of the content, of which the second is adapted on the way.

    ``feeds``: target layer -> (source layer, rank). A layer that computes at other positions than its source layer is left out.
    """
    found: dict[str, LowRank] = {}

    def fitting(layer: str) -> Hook:
        s, rank = feeds[layer]
        y_s, change = outputs.alone[s], outputs.adapted[s] - outputs.alone[s]

        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
            tick(layer)
            half = len(x) // 2
            y_t, y_1 = (rows_out(module, part) for part in torch.split(y, half))
            if len(rows := _drawn(len(y_t))) != len(y_s):
                return None
            y_t, y_1, x_1 = y_t[rows].cpu(), y_1[rows].cpu(), rows_in(module, x[half:])[rows].cpu()
            R = ridge(y_s - y_s.mean(0), y_t - y_t.mean(0))
            found[layer] = _of_rank(x_1, ridge(x_1, change @ R - (y_1 - y_t)), rank)
            return torch.cat([y[:half], y[half:] + effect(module, x[half:], found[layer])])

        return hook

    with hooked({layer: target.module(layer) for layer in feeds}, fitting):
        conditioning = target.encode(content.prompts * 2)
        target.predict(content.latents.repeat(2, 1, 1, 1), content.times.repeat(2), conditioning)
    return found


def ridge(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """argmin_W ||Y - X W||^2 + lambda ||W||^2, float32 (n, m), for X (rows, n) and Y (rows, m).

    lambda is the one of RIDGES under which a part that was left out of the fit is predicted best. 0 where none predicts it better
    than 0 does.
    """
    X, Y = X.double(), Y.double()
    cut = int(len(X) * (1 - HELD_OUT))
    solve = _solver(X[:cut], Y[:cut])
    errors = [(Y[cut:] - X[cut:] @ solve(one)).square().sum().item() for one in RIDGES]
    best = min(range(len(RIDGES)), key=errors.__getitem__)
    if errors[best] >= Y[cut:].square().sum().item():
        return torch.zeros(X.shape[1], Y.shape[1])
    return _solver(X, Y)(RIDGES[best]).float()


def _solver(X: torch.Tensor, Y: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """By a Cholesky decomposition for each lambda: an eigendecomposition for all of them fails on some rank-deficient X."""
    gram, moment = X.mT @ X, X.mT @ Y
    unit = torch.eye(len(gram), dtype=gram.dtype) * (gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    return lambda ridge: torch.cholesky_solve(moment, torch.linalg.cholesky(gram + ridge * unit))


def _of_rank(X: torch.Tensor, W: torch.Tensor, rank: int) -> LowRank:
    """The delta (m, n) of this rank whose effect on X (rows, n) is nearest to X W (reduced-rank regression)."""
    effect = (X @ W).double()
    V = torch.linalg.eigh(effect.mT @ effect).eigenvectors[:, -rank:].float()
    return LowRank(V.contiguous(), (W @ V).mT.contiguous())


@torch.no_grad()
def _outputs(source: Model, layers: list[str], content: Content) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def keeping(layer: str) -> Hook:
        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
            rows = rows_out(module, y)
            found[layer] = rows[_drawn(len(rows))].float().cpu()

        return hook

    with hooked({layer: source.module(layer) for layer in layers}, keeping):
        source.predict(content.latents, content.times, source.encode(content.prompts))
    return found


def _drawn(count: int) -> torch.Tensor:
    """Which of so many positions are kept: the same in both models."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(count))[:ROWS]
