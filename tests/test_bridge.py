"""What bridge is made of: rows, places and regressions."""

from __future__ import annotations

import pytest
import torch

from lorax.methods import bridge
from lorax.models import hooks


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_a_product_of_its_rows(kernel: int) -> None:
    torch.manual_seed(0)
    module, x = torch.nn.Conv2d(3, 5, kernel, 2, kernel // 2, bias=False), torch.randn(2, 3, 8, 8)
    expected = hooks.rows_in(module, x) @ module.weight.flatten(1).mT
    assert torch.allclose(hooks.rows_out(module, module(x)), expected, atol=1e-5)


def test_ridge_finds_a_map_and_finds_none_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    X, W, noise = (torch.randn(shape, generator=generator) for shape in ((500, 20), (20, 7), (500, 7)))
    assert (bridge.ridge(X, X @ W) - W).norm() < 2e-3 * W.norm()
    assert not bridge.ridge(X, noise).any()


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("rows", [30, 200])
def test_the_ridge_is_the_best_of_all(rows: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    X, W = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((rows, 40), (40, 7)))
    Y = X @ W + noise * torch.randn((rows, 7), generator=generator, dtype=torch.float64)
    cut = int(rows * (1 - bridge.HELD_OUT))
    solve, whole = bridge._solver(X[:cut], Y[:cut]), bridge._solver(X, Y)
    errors = {one: (Y[cut:] - X[cut:] @ solve(one)).square().sum() for one in bridge.RIDGES}
    best = min(errors, key=errors.__getitem__)
    expected = whole(best) if errors[best] < Y[cut:].square().sum() else torch.zeros(40, 7)
    assert torch.allclose(bridge.ridge(X, Y), expected.float(), atol=1e-6)


def test_wide_layers_are_solved_by_the_smaller_gram_matrix() -> None:
    """What comes out satisfies the normal equations of one lambda, and is of the best rank."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 90, generator=generator)
    true = torch.randn(90, 2, generator=generator) @ torch.randn(2, 80, generator=generator)
    W, Y = bridge.ridge(X, X @ true).double(), (X @ true).double()
    unit = X.double().square().sum() / 90 * torch.eye(90)
    residual = X.double().mT @ (Y - X.double() @ W)
    assert min((residual - one * unit.double() @ W).norm() for one in bridge.RIDGES) < 1e-4 * residual.norm()
    cut = bridge._reduced(X, W.float(), 2)
    U, S, Vh = torch.linalg.svd(X.double() @ W, full_matrices=False)
    effect = X.double() @ (cut.up @ cut.down).double().mT
    assert (effect - (U[:, :2] * S[:2]) @ Vh[:2]).norm() < 1e-4 * effect.norm()


def test_places_are_the_same_at_any_resolution() -> None:
    where = bridge.SamplePoints.drawn(3, 50)
    fine = torch.arange(3 * 8 * 8).view(3, 8, 8)
    coarse = fine[:, ::2, ::2]  # a cell's first
    of_fine, of_coarse = (where.of(grid.reshape(-1, 1), 3).squeeze(1) for grid in (fine, coarse))
    assert (of_fine // 64 == of_coarse // 64).all()  # of the same picture
    apart = (of_fine - of_coarse).int() % 64
    assert set(apart.tolist()) <= {0, 1, 8, 9}  # and of the same cell
    tokens = where.of(torch.arange(3 * 77).view(-1, 1), 3).squeeze(1)
    assert torch.equal((tokens // 77).long(), where.item)


@pytest.mark.parametrize("module", [torch.nn.Conv2d(4, 5, 3, 2, 1), torch.nn.Linear(8, 5)])
def test_what_a_layer_sees_is_taken_at_the_places(module: torch.nn.Module) -> None:
    where, x = bridge.SamplePoints.drawn(3, 50), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x if isinstance(module, torch.nn.Conv2d) else x.flatten(2).mT.reshape(3, 32, 8)
    assert torch.equal(where.of_input(module, x), where.of(hooks.rows_in(module, x), 3))
