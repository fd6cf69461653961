"""How often bridge and refine have each model do something: found by running them on models that compute nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.formats import open_adapter
from lorax.options import Options, Running
from lorax.transfer import Context, by_models, plan

POSITIONS = 4  # that layers compute
OFFSET = 100.0  # of the first prediction; it falls, so that no training stops early


class Idle:
    """``lorax.models.protocol.Model``: values of the right shapes but small pictures, and layers side by side."""

    device = torch.device("cpu")
    alphas = torch.linspace(0.999, 0.001, 1000)

    def __init__(self, base: Checkpoint, size: int) -> None:
        self.base, self.size, self.counts = base, size, Counter[str]()
        self.largest = Counter[str]()  # how many pictures at a time
        self._modules: dict[str, nn.Linear] = {}

    def encode(self, prompts: list[str]) -> Any:
        self.counts["prompt"] += len(prompts)

    def predict(self, latents: torch.Tensor, times: torch.Tensor, conditioning: Any) -> torch.Tensor:
        learns = torch.is_grad_enabled()
        kind = "training" if learns else "evaluation"
        self.largest[kind] = max(self.largest[kind], len(latents))
        self.counts[kind] += len(latents)
        for module in self._modules.values():  # bridge works in their hooks
            module(torch.randn(len(latents), POSITIONS, module.in_features))
        value = OFFSET / (1 + self.counts.total())
        return torch.full(latents.shape, value, requires_grad=learns)

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        self.counts["encoded"] += len(pictures)
        return torch.zeros(len(pictures), 4, self.size, self.size)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.counts["decoded"] += len(latents)
        return torch.zeros(len(latents), 3, 8, 8)

    def module(self, layer: str) -> nn.Module:
        m, n = self.base.matrix(layer)
        return self._modules.setdefault(layer, nn.Linear(n, m).requires_grad_(False))

    def blocks(self) -> Sequence[nn.Module]:
        return ()


class Idles:
    """``lorax.models.protocol.Models``: ``sizes`` of the latents by the checkpoint's name."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in sizes}
        self.largest: dict[str, Counter[str]] = {name: Counter() for name in sizes}

    @contextmanager
    def opened(self, base: Checkpoint) -> Iterator[Idle]:
        name = base.path.stem
        model = Idle(base, self._sizes[name])
        yield model
        self.counts[name] += model.counts
        self.largest[name] |= model.largest


def counted(narrow: Path, method: str, sizes: tuple[int, int], running: Running) -> Idles:
    """``sd`` and ``xl`` after the method was run on them with latents of these sizes. Pictures are counted.

    ``narrow``: a folder with ``bench.running``'s narrow files, from which the layers are taken. No training stops early.
    """
    source, target = (open_checkpoint(narrow / f"{name}.safetensors") for name in ("sd", "xl"))
    made = plan(open_adapter(narrow / "lora.safetensors"), source, target, Options(method, device="cpu"))
    idles = Idles(dict(zip(("sd", "xl"), sizes, strict=True)))
    few = dataclasses.replace(made, running=running, of_bases={})  # more layers, as beside the adapter's, change no count
    by_models.run(few, Context(models=idles))
    return idles
