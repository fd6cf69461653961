"""The closed form: each target layer is given what makes its output change as the source's does.

Layer by layer, in the order in which the target runs them, dW_t x' = R (y_s' - y_s) - (y' - y_t) is solved for dW_t by ridge
regression. x' and y' are what the layer sees and gives once all layers before it are adapted; y_s' and y_s what the source's
layer gives with the adapter and without, on the same pictures and captions; R carries the source layer's output to the target
layer's and is fitted on y_s and y_t. The models may differ in width and resolution: layers are compared at the same places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorax.low_rank import LowRank
from lorax.models.hooks import Hook, effect, hooked, rows_in, rows_out
from lorax.models.protocol import Model
from lorax.models.sampling import Content, Tick
from lorax.transfer.feeds import Feed

ROWS = 4096  # places at which layers are compared
KEPT = 4 << 30  # bytes at most that are kept of the source; of a very large adapter there are fewer places
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # in units of the mean of the Gram matrix's diagonal
HELD_OUT = 0.2


@dataclass(frozen=True)
class Places:
    """Places in the content, the same in layers of any resolution: ``item`` (rows,) and ``point`` (rows, 2) in [0, 1)."""

    item: torch.Tensor
    point: torch.Tensor

    @classmethod
    def drawn(cls, count: int, rows: int) -> Places:
        """At random points of so many pictures, picture after picture: the last rows are of pictures of their own."""
        point = torch.rand(rows, 2, generator=torch.Generator().manual_seed(0))
        return cls(torch.arange(rows) * count // rows, point)

    def of(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """Rows, float32 on the CPU, of a layer's values (count * positions, C): of a grid, of a prompt's tokens, or of one."""
        positions, (y, x) = len(values) // count, self.point.unbind(1)
        side = math.isqrt(positions)
        grid = (y * side).long() * side + (x * side).long()
        within = grid if side * side == positions else (y * positions).long()
        return values[(self.item * positions + within).to(values.device)].float().cpu()

    def seen(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """The same of the module's input x (count, ...), of one picture at a time: a convolution's rows overlap."""
        each = [self._of_picture(number).of(rows_in(module, x[number : number + 1]), 1) for number in range(len(x))]
        return torch.cat(each)

    def _of_picture(self, number: int) -> Places:
        chosen = self.item == number
        return Places(torch.zeros_like(self.item[chosen]), self.point[chosen])


@dataclass(frozen=True)
class Output:
    """What a source layer gives at the places, float16 (rows, m), and what the adapter adds to it."""

    alone: torch.Tensor
    change: torch.Tensor


def places(source: Model, layers: Collection[str], content: Content) -> Places:
    """As many as can be kept of all these layers."""
    width = sum(source.base.matrix(layer)[0] for layer in layers)
    return Places.drawn(len(content), min(ROWS, KEPT // (2 * torch.half.itemsize * width)))


@torch.no_grad()
def record(
    source: Model, adapter: Mapping[str, LowRank], layers: Collection[str], content: Content, where: Places, tick: Tick
) -> dict[str, Output]:
    """By layer, of these layers, in one run of the source on two copies of the content, of which the second is adapted."""
    found: dict[str, Output] = {}

    def recording(layer: str) -> Hook:
        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            tick(layer)
            half = len(x) // 2
            if layer in deltas:
                y = torch.cat([y[:half], y[half:] + effect(module, x[half:], deltas[layer])])
            if layer in layers:
                alone, adapted = (where.of(rows_out(module, part), half) for part in torch.split(y, half))
                found[layer] = Output(alone.half(), (adapted - alone).half())
            return y

        return hook

    deltas = {layer: dW.to(source.device) for layer, dW in adapter.items()}
    _run_twice(source, content, {layer: recording(layer) for layer in {*adapter, *layers}})
    return found


@torch.no_grad()
def fit(
    target: Model,
    outputs: Mapping[str, Output],
    feeds: Mapping[str, Feed],
    content: Content,
    where: Places,
    tick: Tick,
) -> dict[str, LowRank]:
    """Target layer -> delta, in one run of the target on two copies of the content, of which the second is adapted on the way.

    ``feeds``: by target layer. A layer that one of the models does not use is left out.
    """
    found: dict[str, LowRank] = {}

    def fitting(layer: str) -> Hook:
        feed = feeds[layer]

        def hook(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            tick(layer)
            half = len(x) // 2
            y_s, change = outputs[feed.source].alone.float(), outputs[feed.source].change.float()
            y_t, y_1 = (where.of(rows_out(module, part), half) for part in torch.split(y, half))
            x_1 = where.seen(module, x[half:])
            R = ridge(y_s - y_s.mean(0), y_t - y_t.mean(0))
            found[layer] = _of_rank(x_1, ridge(x_1, change @ R - (y_1 - y_t)), feed.rank)
            return torch.cat([y[:half], y[half:] + effect(module, x[half:], found[layer].to(x.device))])

        return hook

    _run_twice(target, content, {layer: fitting(layer) for layer, feed in feeds.items() if feed.source in outputs})
    return found


def _run_twice(model: Model, content: Content, hooks: Mapping[str, Hook]) -> None:
    """On two copies of the content, side by side."""
    with hooked({layer: model.module(layer) for layer in hooks}, hooks.__getitem__):
        model.predict(content.latents.repeat(2, 1, 1, 1), content.times.repeat(2), model.encode(content.prompts * 2))


def ridge(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """argmin_W ||Y - X W||^2 + lambda ||W||^2, float32 (n, m), for X (rows, n) and Y (rows, m).

    lambda is the one of RIDGES under which the last rows, left out of the fit, are predicted best. 0 where none predicts them
    better than 0 does.
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
    """By a Cholesky decomposition for each lambda: an eigendecomposition for all of them fails on some rank-deficient X.

    Of the smaller Gram matrix: (X'X + l)^-1 X' = X' (XX' + l)^-1, which matters for the widest layers of full-size models.
    """
    is_wide = X.shape[1] > len(X)
    gram, right = (X @ X.mT, Y) if is_wide else (X.mT @ X, X.mT @ Y)
    size = X.square().sum() / X.shape[1] + torch.finfo(X.dtype).tiny
    unit = torch.eye(len(gram), dtype=gram.dtype) * size

    def solve(ridge: float) -> torch.Tensor:
        solution = torch.cholesky_solve(right, torch.linalg.cholesky(gram + ridge * unit))
        return X.mT @ solution if is_wide else solution

    return solve


def _of_rank(X: torch.Tensor, W: torch.Tensor, rank: int) -> LowRank:
    """The delta (m, n) of this rank whose effect on X (rows, n) is nearest to X W (reduced-rank regression)."""
    effect = (X @ W).double()
    if len(effect) < effect.shape[1]:  # of the smaller Gram matrix, too
        U = torch.linalg.eigh(effect @ effect.mT).eigenvectors[:, -rank:]
        V = torch.linalg.qr(effect.mT @ U).Q.float()
    else:
        V = torch.linalg.eigh(effect.mT @ effect).eigenvectors[:, -rank:].float()
    return LowRank(V.contiguous(), (W @ V).mT.contiguous())
