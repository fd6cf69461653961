"""Hooks into the layers of a running model, which record values and add low-rank deltas without changing a weight."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lorax.checkpoint import TEXT_MODEL
from lorax.low_rank import LowRank
from lorax.models.protocol import Model
from lorax.progress import Meter

Hook = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor | None]  # module, input, output -> output in its place


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook_of: Callable[[str], Hook]) -> Iterator[None]:
    """Hook every module within the block: ``hook_of(layer)`` sees its output, and may replace it."""
    with ExitStack() as stack:
        for layer, module in modules.items():
            hook = hook_of(layer)
            handle = module.register_forward_hook(lambda module, inputs, output, hook=hook: hook(module, inputs[0], output))
            stack.callback(handle.remove)
        yield


def adapted(model: Model, layers: Mapping[str, LowRank]) -> AbstractContextManager[None]:
    """Add the deltas to the layers' weights, in effect, within the block."""
    deltas = {layer: dW.to(model.device) for layer, dW in layers.items()}
    modules = {layer: model.module(layer) for layer in layers}
    return hooked(modules, lambda layer: lambda module, x, y: y + effect(module, x, deltas[layer]))


@contextmanager
def watched(model: Model, meter: Meter) -> Iterator[None]:
    """Have every layer of the UNet tick within the block, so that a stop need not wait for a batch to pass through all of it."""
    with ExitStack() as stack:
        for layer in model.base.layers:
            if layer.startswith("unet."):
                stack.callback(model.module(layer).register_forward_pre_hook(lambda *given: meter.tick()).remove)
        yield


@contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Store no values inside these modules for a backward pass, which must be within the block too (arXiv 1604.06174).

    Each module runs again when its gradient is needed, with the hooks that it has then. No module may be inside another.
    """

    def restore(block: nn.Module, forward: Callable[..., object] | None) -> None:
        del block.forward
        if forward is not None:  # a host's own
            block.forward = forward

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(restore, block, vars(block).get("forward"))
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        yield


def effect(module: nn.Module, x: torch.Tensor, dW: LowRank) -> torch.Tensor:
    """Return dW x as the module computes it, for x (N, T, n) of a linear layer or (N, C, H, W) of a convolution, in x's dtype."""
    up, down = dW.up.to(x), dW.down.to(x)
    if isinstance(module, nn.Conv2d):
        inner = F.conv2d(x, down.reshape(-1, module.in_channels, *module.kernel_size), None, module.stride, module.padding)
        return dW.scale * F.conv2d(inner, up[:, :, None, None])
    return dW.scale * F.linear(F.linear(x, down), up)


def rows_in(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the module's input at every position, (positions, n). For a convolution, n is in * kh * kw."""
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)  # no supported model has 'same' or 'valid'
        x = F.unfold(x, module.kernel_size, padding=module.padding, stride=module.stride).mT
    return x.flatten(0, -2)


def rows_out(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    """Return the module's output at every position, (positions, m)."""
    if isinstance(module, nn.Conv2d):
        y = y.flatten(2).mT
    return y.flatten(0, -2)


def text_module(encoder: nn.Module, path: str) -> nn.Module:
    """Return the module of a transformers text encoder at ``path``. transformers 5 has no ``text_model`` in its paths."""
    try:
        return encoder.get_submodule(path)
    except AttributeError:
        return encoder.get_submodule(path.removeprefix(TEXT_MODEL))
