"""What the lab's ideas that run the models are made of."""

from __future__ import annotations

import torch

from lab.eye import by_models, weighted
from lorax.low_rank import LowRank
from lorax.methods import bridge

ROWS, N, M, RANK = 60, 12, 8, 2


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def dense(dW: LowRank) -> torch.Tensor:
    return dW.scale * dW.up @ dW.down


def test_a_mixture_is_the_sum_of_its_parts() -> None:
    one, other = LowRank(drawn(M, RANK), drawn(RANK, N), 0.5), LowRank(drawn(M, 3), drawn(3, N), 2.0)
    assert torch.allclose(dense(by_models._sum([one, other])), dense(one) + dense(other), atol=1e-5)


def test_a_mask_keeps_what_goes_down_the_gradient() -> None:
    dW, gradient = LowRank(drawn(M, RANK), drawn(RANK, N), -0.5), drawn(M, N)
    kept, whole = dense(by_models._against(dW, gradient)), dense(dW)
    assert torch.equal(kept != 0, whole * gradient < 0)
    assert torch.allclose(kept[kept != 0], whole[kept != 0])


def test_without_a_direction_that_matters_more_weights_change_nothing() -> None:
    X, W = drawn(ROWS, N), drawn(N, M)
    same = weighted._reduced(X, W, torch.eye(M), RANK)
    assert torch.allclose(dense(same), dense(bridge._reduced(X, W, RANK)), atol=1e-4)


def test_what_matters_is_fitted_first() -> None:
    """With one direction that matters, the error in it is smaller than without weights."""
    X, W, gradient = drawn(ROWS, N), drawn(N, M), torch.zeros(ROWS, M)
    gradient[:, 0] = 10.0
    errors = ((X @ (W - dense(one).mT))[:, 0].norm() for one in (weighted._reduced(X, W, gradient, 1), bridge._reduced(X, W, 1)))
    less, usual = errors
    assert less < usual / 2
