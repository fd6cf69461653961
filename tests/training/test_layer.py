"""The constrained layer: what it computes, what its gradients are, and that trainers' usual means leave it whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lorax.errors import LoraxError
from lorax.subspace import Decomposition, basis
from lorax.training.layer import CORES, Constrained

MODULES = {
    "linear": (lambda: nn.Linear(12, 20), (3, 5, 12)),
    "1x1": (lambda: nn.Conv2d(12, 20, 1), (2, 12, 3, 3)),
    "3x3": (lambda: nn.Conv2d(5, 7, 3, padding=1), (2, 5, 3, 4)),
    "downsampler": (lambda: nn.Conv2d(6, 6, 3, stride=2, padding=1), (2, 6, 4, 4)),
    "dilated": (lambda: nn.Conv2d(6, 6, 3, dilation=2), (1, 6, 5, 5)),
}
KINDS = pytest.mark.parametrize(("kind", "core"), [(kind, core) for kind in MODULES for core in CORES])


def made(
    kind: str, core: str, dtype: torch.dtype = torch.float64, **options: float
) -> tuple[nn.Module, Constrained, torch.Tensor]:
    """A module with random weights, its constrained layer with a random core, and an input."""
    torch.manual_seed(1)
    new, shape = MODULES[kind]
    module = new().to(dtype).requires_grad_(False)
    layer = Constrained(module, *basis(Decomposition(module.weight.flatten(1)), 4), core, **options)
    layer.core.data = torch.randn_like(layer.core).to(dtype)
    return module, layer, torch.randn(shape, dtype=dtype)


@KINDS
def test_it_adds_what_the_changed_weight_would(kind: str, core: str) -> None:
    module, layer, x = made(kind, core)
    U, _, Vh = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
    signs = (U[:, :4] * layer.U).sum(0).sign()
    dS = layer.core.diag() if core == "diagonal" else layer.core
    changed = ((U[:, :4] * signs) @ dS @ (signs[:, None] * Vh[:4])).detach()
    y = module(x)
    layer.remove()
    module.weight += changed.reshape(module.weight.shape)
    torch.testing.assert_close(y, module(x))
    dW = layer.delta()
    torch.testing.assert_close((dW.up @ dW.down).double(), changed, atol=1e-5, rtol=1e-5)


@KINDS
def test_gradients_against_finite_differences(kind: str, core: str) -> None:
    module, layer, x = made(kind, core)

    def loss(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"core": values}, x)

    x.requires_grad_(True)
    assert torch.autograd.gradcheck(loss, (layer.core.detach().requires_grad_(True), x))
    y = module(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), layer.core)
    step = torch.zeros_like(layer.core)
    step.view(-1)[1] = 1e-6
    values = []
    for sign in (1, -1):
        layer.core.data += sign * step
        values.append(module(x).square().sum().item())
        layer.core.data -= sign * step
    assert gradient.view(-1)[1].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


@KINDS
def test_a_core_of_zero_changes_nothing_and_learns(kind: str, core: str) -> None:
    module, layer, x = made(kind, core)
    layer.core.data.zero_()
    y = module(x)
    y.square().sum().backward()
    assert layer.core.grad is not None
    assert layer.core.grad.abs().sum() > 0
    layer.remove()
    assert torch.equal(y, module(x))


def test_only_the_core_is_in_the_state() -> None:
    _, layer, _ = made("linear", "diagonal")
    assert list(layer.state_dict()) == ["core"]
    assert [name for name, _ in layer.named_parameters()] == ["core"]


@KINDS
def test_mixed_precision(kind: str, core: str) -> None:
    """The core stays float32, and so does its gradient, under autocast and in a model that was loaded in half precision."""
    module, layer, x = made(kind, core, torch.float32)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.float().square().sum().backward()
    torch.testing.assert_close(y.float(), exact, atol=0.2, rtol=0.05)
    assert layer.core.grad is not None
    assert layer.core.grad.dtype == torch.float32
    layer.remove()
    half = Constrained(module.bfloat16(), layer.U.double(), layer.Vh.double().mT, core)
    assert half.U.dtype == torch.bfloat16
    assert half.core.dtype == torch.float32
    half.core.data.copy_(layer.core.data)
    y = module(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact.float(), atol=0.3, rtol=0.1)


@KINDS
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradient(kind: str, core: str, reentrant: bool) -> None:
    """The dropout's random numbers are drawn again in the second forward pass."""
    module, layer, x = made(kind, core, dropout=0.5)
    x.requires_grad_(True)
    gradients = []
    for call in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        torch.manual_seed(3)
        (gradient,) = torch.autograd.grad(call(x).square().sum(), layer.core) if call is module else (_backward(call, x, layer),)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)


def _backward(call: object, x: torch.Tensor, layer: Constrained) -> torch.Tensor:
    layer.core.grad = None
    call(x).square().sum().backward()  # type: ignore[operator] # reentrant checkpointing knows no torch.autograd.grad
    assert layer.core.grad is not None
    return layer.core.grad


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("kind", ["linear", "downsampler"])
def test_it_compiles_as_one_graph(kind: str, core: str) -> None:
    module, layer, x = made(kind, core)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    (expected,) = torch.autograd.grad(module(x).square().sum(), layer.core)
    (gradient,) = torch.autograd.grad(compiled(x).square().sum(), layer.core)
    torch.testing.assert_close(compiled(x), module(x))
    torch.testing.assert_close(gradient, expected)
    layer.core.data *= 2  # the optimiser's step must be seen
    torch.testing.assert_close(compiled(x), module(x))


def test_dropout_is_of_training_alone() -> None:
    module, layer, x = made("linear", "diagonal", dropout=0.5)
    assert not torch.equal(module(x), module(x))
    layer.eval()
    assert torch.equal(module(x), module(x))


def test_the_multiplier_scales_the_update() -> None:
    module, layer, x = made("3x3", "full")
    full = module(x)
    layer.multiplier = 0.0
    base = module(x)
    layer.multiplier = 0.5
    torch.testing.assert_close(module(x), (base + full) / 2)


def test_a_grouped_convolution_is_refused() -> None:
    module = nn.Conv2d(8, 8, 3, groups=2)
    with pytest.raises(LoraxError, match="without groups"):
        Constrained(module, *basis(Decomposition(module.weight.flatten(1)), 2))
