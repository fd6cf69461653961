"""What flows through the layers of a running model, and low-rank deltas that act in it without touching its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lorax.low_rank import LowRank
from lorax.models.protocol import Model

Hook = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor | None]  # module, input, output -> other output


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook_of: Callable[[str], Hook]) -> Iterator[None]:
    """Within the block ``hook_of(layer)`` sees, and may replace, the output of every module."""
    with ExitStack() as stack:
        for layer, module in modules.items():
            hook = hook_of(layer)
            handle = module.register_forward_hook(lambda module, inputs, output, hook=hook: hook(module, inputs[0], output))
            stack.callback(handle.remove)
        yield


def adapted(model: Model, layers: Mapping[str, LowRank]) -> AbstractContextManager[None]:
    """Within the block every layer gives what it gives with its delta on it."""
    deltas = {layer: dW.to(model.device) for layer, dW in layers.items()}
    modules = {layer: model.module(layer) for layer in layers}
    return hooked(modules, lambda layer: lambda module, x, y: y + effect(module, x, deltas[layer]))


@contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, which a backward pass must be in too, nothing inside these modules is kept for it.

    Each runs once more when its gradient is needed, as its hooks are at that time (arXiv 1604.06174). None is inside another.
    """
    with ExitStack() as stack:
        for block in blocks:
            before = vars(block).get("forward")  # a host may have put its own there
            stack.callback(_restore, block, before)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        yield


def _restore(block: nn.Module, forward: Callable[..., object] | None) -> None:
    del block.forward
    if forward is not None:
        block.forward = forward


def effect(module: nn.Module, x: torch.Tensor, dW: LowRank) -> torch.Tensor:
    """dW x, as the module would compute it, in the dtype of x: (N, T, n) of a linear layer, (N, C, H, W) of a convolution."""
    up, down = dW.up.to(x), dW.down.to(x)
    if isinstance(module, nn.Conv2d):
        inner = F.conv2d(x, down.reshape(-1, module.in_channels, *module.kernel_size), None, module.stride, module.padding)
        return dW.scale * F.conv2d(inner, up[:, :, None, None])
    return dW.scale * F.linear(F.linear(x, down), up)


def rows_in(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The module's input at every position, (positions, n); a convolution's n is in * kh * kw: many times what x holds."""
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)  # 'same' and 'valid' are in no model of ours
        x = F.unfold(x, module.kernel_size, padding=module.padding, stride=module.stride).mT
    return x.flatten(0, -2)


def rows_out(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    """The module's output at every position, (positions, m)."""
    if isinstance(module, nn.Conv2d):
        y = y.flatten(2).mT
    return y.flatten(0, -2)
