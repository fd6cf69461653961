"""AdamW over factors, with all that decides how it goes on in one state, from which a training that was stopped goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from lorax.low_rank import LowRank
from lorax.models.loss_scale import LossScale

DECAY = 0.97  # of the averaged factors, a step
WARMUP = 10  # steps
COUNTERS = ("step", "since", "best", "scale")


class Factors:
    """Every layer's up and down, with the scale inside and of like size, so that one rate suits both."""

    def __init__(self, layers: Mapping[str, LowRank], device: torch.device) -> None:
        self._names = list(layers)
        self.all = [nn.Parameter(factor.to(device)) for dW in layers.values() for factor in _even(dW)]

    def layers(self, factors: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """With these values in the place of ``all``."""
        return {name: LowRank(factors[2 * i], factors[2 * i + 1]) for i, name in enumerate(self._names)}


class Scales:
    """How strong each direction of every layer is, 1 at the start; the directions stay as they are."""

    def __init__(self, layers: Mapping[str, LowRank], device: torch.device) -> None:
        self._start = {name: dW.to(device) for name, dW in layers.items()}
        self.all = [nn.Parameter(torch.ones(dW.rank, device=device)) for dW in layers.values()]

    def layers(self, scales: Sequence[torch.Tensor]) -> dict[str, LowRank]:
        """With these values in the place of ``all``."""
        pairs = zip(self._start.items(), scales, strict=True)
        return {name: LowRank(dW.up * scale, dW.down, dW.scale) for (name, dW), scale in pairs}


class Training:
    """Of ``parameters``, float32. ``average``: each one's mean over the last steps. ``chosen``: the averages of the best look."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.parameters, self._rate = list(parameters), rate
        self._optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
        self._scale = LossScale()
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.chosen = self._away(self.average)
        self.best, self.step, self.since = math.inf, 0, 0  # loss of the best look; steps; looks since without a gain

    def advance(self, gradient: Callable[[float], None]) -> None:
        """A step by what ``gradient(scale)`` adds to the parameters' gradients, of the loss times ``scale``.

        It is asked again, at half the scale, until the gradients do not overflow: there are few steps to lose. Raises LoraxError
        where they always do.
        """
        self.step += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1.0, self.step / WARMUP)
        taken = False
        while not taken:
            self._optimizer.zero_grad(set_to_none=True)
            gradient(self._scale.value)
            taken = self._scale.step(self._optimizer, self.parameters)
        for mean, parameter in zip(self.average, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), max(1 - DECAY, 1 / (self.step + 1)))  # of all steps while they are few

    def look(self, loss: float) -> None:
        """At the averages: how well they do on what is held out."""
        if loss < self.best:
            self.best, self.since, self.chosen = loss, 0, self._away(self.average)
        else:
            self.since += 1

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Tensors and notes."""
        tensors = {
            f"{kind}.{i}": value
            for kind, values in (("now", self.parameters), ("average", self.average), ("chosen", self.chosen))
            for i, value in enumerate(values)
        }
        for i, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adamw.{i}.{name}": value for name, value in moments.items()}
        counters = (self.step, self.since, self.best, self._scale.value)
        return tensors, {name: str(value) for name, value in zip(COUNTERS, counters, strict=True)}

    def restore(self, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        """Go on from a ``state`` of a training of the same parameters. Raises KeyError or ValueError where it is none."""
        step, since, best, scale = (float(notes[name]) for name in COUNTERS)
        kinds: dict[str, Sequence[torch.Tensor]]
        kinds = {"now": self.parameters, "average": self.average, "chosen": self.chosen}
        found = {kind: [tensors[f"{kind}.{i}"] for i in range(len(self.parameters))] for kind in kinds}
        if any(a.shape != b.shape for values in found.values() for a, b in zip(values, self.parameters, strict=True)):
            raise ValueError("the state of other factors")
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key in tensors:
            if key.startswith("adamw."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = tensors[key]
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        with torch.no_grad():
            for kind, values in kinds.items():
                for value, kept in zip(values, found[kind], strict=True):
                    value.copy_(kept)
        self.step, self.since, self.best, self._scale.value = int(step), int(since), best, scale

    @staticmethod
    def _away(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Copies in main memory."""
        return [value.to("cpu", copy=True) for value in values]


def _even(dW: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Each column of up as long as its row of down."""
    up = dW.scale * dW.up
    ratio = (dW.down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return up * ratio, dW.down / ratio[:, None]
