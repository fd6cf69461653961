"""Optimizes parts of an adapter by AdamW, with loss scaling, averaging and a state from which training resumes."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from lorax.errors import LoraxError
from lorax.low_rank import LowRank

AVERAGE_DECAY = 0.97  # of the averaged parameters, per step
WARMUP = 10  # steps
LARGEST_SCALE = 2.0**16  # of the loss; a power of two, so that float32 and bfloat16 round nothing
LONGEST_GRADIENT = 1.0  # norm to which a gradient is clipped
COUNTERS = ("step", "since", "best", "scale")  # as saved states name them


class Factors:
    """Trainable factors of every layer, with the scale inside. Both factors are of similar size, so that one rate suits both."""

    def __init__(self, layers: Mapping[str, LowRank], device: torch.device) -> None:
        self._names = list(layers)
        self.parameters = [nn.Parameter(factor.to(device)) for dW in layers.values() for factor in _even(dW)]

    def layers(self, values: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """Return the layers with these values in place of the parameters."""
        return {name: LowRank(values[2 * i], values[2 * i + 1]) for i, name in enumerate(self._names)}


class Scales:
    """Trainable strengths of the directions of every layer, 1 at the start. The directions are fixed."""

    def __init__(self, layers: Mapping[str, LowRank], device: torch.device) -> None:
        self._start = {name: dW.to(device) for name, dW in layers.items()}
        self.parameters = [nn.Parameter(torch.ones(dW.rank, device=device)) for dW in layers.values()]

    def layers(self, values: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """Return the layers with these values in place of the parameters."""
        pairs = zip(self._start.items(), values, strict=True)
        return {name: LowRank(dW.up * scale.to(dW.up.device), dW.down, dW.scale) for (name, dW), scale in pairs}


class Optimizer:
    """AdamW over float32 ``parameters``. ``average`` is their mean over the last steps, ``best`` the best validated average."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.parameters, self._rate = list(parameters), rate
        self._adamw = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
        self._loss_scale = LARGEST_SCALE
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.best = _in_memory(self.average)
        self.best_loss, self.step, self.stale = math.inf, 0, 0  # stale: validations since the last gain

    def advance(self, add_gradient: Callable[[float], None]) -> None:
        """Take a step. ``add_gradient(scale)`` adds the gradient of the loss times ``scale`` to the parameters.

        It is called again with half the scale until no gradient overflows float16, so that no step is lost (arXiv 1710.03740,
        section 3.2). If it fails, all is as before. Raises LoraxError if gradients overflow at every scale.
        """
        for group in self._adamw.param_groups:
            group["lr"] = self._rate * min(1.0, (self.step + 1) / WARMUP)
        taken = False
        while not taken:
            self._adamw.zero_grad(set_to_none=True)
            add_gradient(self._loss_scale)
            taken = self._take()
        self.step += 1
        for mean, parameter in zip(self.average, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), max(1 - AVERAGE_DECAY, 1 / (self.step + 1)))  # first the mean of all steps

    def _take(self) -> bool:
        """Take the step if the scaled gradients are finite; else halve the scale and return False."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= self._loss_scale
        if nn.utils.clip_grad_norm_(self.parameters, LONGEST_GRADIENT).isfinite():
            self._adamw.step()
            return True
        self._loss_scale /= 2
        if self._loss_scale < 1:
            raise LoraxError(
                "the target's gradients are NaN or infinite. Its weights overflow in the precision in which it runs, or are "
                "damaged; use another copy of the checkpoint."
            )
        return False

    def validated(self, loss: float) -> None:
        """Record the held-out loss of the averages, which are stored as ``best`` if it is the lowest so far."""
        if loss < self.best_loss:
            self.best_loss, self.stale, self.best = loss, 0, _in_memory(self.average)
        else:
            self.stale += 1

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the tensors and notes from which training resumes. Existing caches have these names."""
        tensors = {
            f"{kind}.{i}": value
            for kind, values in (("now", self.parameters), ("average", self.average), ("chosen", self.best))
            for i, value in enumerate(values)
        }
        for i, moments in self._adamw.state_dict()["state"].items():
            tensors |= {f"adamw.{i}.{name}": value for name, value in moments.items()}
        counters = (self.step, self.stale, self.best_loss, self._loss_scale)
        return tensors, {name: str(value) for name, value in zip(COUNTERS, counters, strict=True)}

    def restore(self, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        """Resume from a ``state`` of the same parameters. Raises KeyError or ValueError if it has another form."""
        step, stale, best_loss, loss_scale = (float(notes[name]) for name in COUNTERS)
        kinds: dict[str, Sequence[torch.Tensor]]
        kinds = {"now": self.parameters, "average": self.average, "chosen": self.best}
        found = {kind: [tensors[f"{kind}.{i}"] for i in range(len(self.parameters))] for kind in kinds}
        if any(a.shape != b.shape for values in found.values() for a, b in zip(values, self.parameters, strict=True)):
            raise ValueError("the state of other factors")
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key in tensors:
            if key.startswith("adamw."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = tensors[key]
        self._adamw.load_state_dict({**self._adamw.state_dict(), "state": moments})
        with torch.no_grad():
            for kind, values in kinds.items():
                for value, restored in zip(values, found[kind], strict=True):
                    value.copy_(restored)
        self.step, self.stale, self.best_loss, self._loss_scale = int(step), int(stale), best_loss, loss_scale


def _in_memory(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [value.to("cpu", copy=True) for value in values]


def _even(dW: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors, with each column of up as long as its row of down."""
    up = dW.scale * dW.up
    ratio = (dW.down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return up * ratio, dW.down / ratio[:, None]
