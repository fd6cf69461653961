"""What bridge and refine have each model do, once each, on full-size models: measured, and counted in operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.gauge import Gauge, Reading, operations
from lorax.checkpoint import open_checkpoint
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.methods import Kinship, bridge, refine
from lorax.models import NoisyBatch, adapted, noised, recomputed
from lorax.models.optimizer import LARGEST_SCALE, Optimizer
from lorax.models.prompts import Prompts
from lorax.options import Options
from lorax.progress import Meter
from lorax.runner import Runner, Runners
from lorax.runner.runner import Conditioning
from lorax.transfer import plan, work
from lorax.transfer.assignment import assignments

PROMPT = "a red car"
SEEN = 2  # pictures of the recording that is measured
META = torch.device("meta")  # computes shapes only, in which operations are counted


@dataclass
class Stage:
    """Of one model. ``sizes``: bytes of its parts; ``operations``: of one evaluation, and of one picture's training."""

    readings: dict[str, Reading] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)


def source(folder: Path, device: torch.device, dtype: torch.dtype, show: Callable[[Reading], None]) -> Stage:
    gauge, base = Gauge(device, show), open_checkpoint(folder / "sd.safetensors")
    adapter = open_adapter(folder / "lora.safetensors").deltas_of(base)
    opened = Runners(device, dtype).opened(base)
    model = gauge("open", opened.__enter__)
    given = gauge("encode a prompt", torch.no_grad()(lambda: model.encode([PROMPT])))
    latents, time = torch.randn(1, 4, model.size, model.size), torch.tensor([500])
    with adapted(model, adapter), torch.no_grad():
        gauge("evaluate with the LoRA", lambda: model.predict(latents, time, given))
    gauge("open the autoencoder", lambda: model.vae)
    gauge("decode a picture", lambda: model.decode(latents))
    picture = torch.rand(1, 3, 8 * model.size, 8 * model.size)
    gauge("encode a picture", lambda: model.encode_pictures(picture))
    seen = noised(model, latents, [PROMPT], SEEN, seed=0)
    width = sum(base.matrix(layer)[0] for layer in adapter)
    points = bridge.SamplePoints.drawn(SEEN, bridge.points_for(width))
    record = partial(bridge.record, model, adapter, adapter, seen, points, Meter())
    gauge(f"bridge: record {SEEN} pictures twice", record)
    stage = Stage({reading.action: reading for reading in gauge.readings}, _sizes(model, adapter))
    opened.__exit__(None, None, None)
    model.device = META
    with adapted(model, adapter), torch.no_grad():
        stage.operations["evaluation"] = operations(lambda: model.predict(latents, time, _on_meta(given)))
        stage.operations["decoded"] = operations(lambda: model.decode(latents))
        stage.operations["encoded"] = operations(lambda: model.encode_pictures(picture))
    return stage


def target(folder: Path, device: torch.device, dtype: torch.dtype, show: Callable[[Reading], None]) -> Stage:
    gauge, base = Gauge(device, show), open_checkpoint(folder / "xl.safetensors")
    planned = plan(open_adapter(folder / "lora.safetensors"), open_checkpoint(folder / "sd.safetensors"), base, Options("refine"))
    assigned = assignments(planned)
    ranks = {layer: one.rank for layer, one in assigned.items()}
    opened = Runners(device, dtype).opened(base)
    model = gauge("open", opened.__enter__)
    picture = torch.rand(1, 3, 8 * model.size, 8 * model.size)
    gauge("open the autoencoder", lambda: model.vae)
    gauge("encode a picture", lambda: model.encode_pictures(picture))
    said = gauge("encode a prompt", lambda: Prompts(model, [PROMPT], ranks, Meter()))
    latents = torch.randn(1, 4, model.size, model.size)
    seen = noised(model, latents, [PROMPT], 1, seed=0)
    start = refine.blank(model, ranks)
    with adapted(model, start), torch.no_grad():
        gauge("evaluate with the LoRA", lambda: model.predict(seen.latents, seen.times, said([PROMPT])))
    factors = [nn.Parameter(factor.to(device)) for dW in start.values() for factor in (dW.up, dW.down)]
    layers = {layer: LowRank(factors[2 * i], factors[2 * i + 1]) for i, layer in enumerate(start)}
    gauge("train on a picture", lambda: _train(model, layers, seen, said))
    optimizer = Optimizer(factors, refine.EFFORTS[Kinship.CROSSED].rate)
    gradients = [torch.ones_like(factor) for factor in factors]

    def add_gradient(scale: float) -> None:
        for factor, gradient in zip(factors, gradients, strict=True):
            factor.grad = gradient

    add_gradient(1.0)  # that of the picture may overflow in half precision; any other takes the same time
    gauge("AdamW's step", lambda: optimizer.advance(add_gradient))
    shapes = [(planned.source.matrix(one.source)[0], *base.matrix(layer)) for layer, one in assigned.items()]
    typical = sorted(shapes)[len(shapes) // 2]
    made = torch.Generator().manual_seed(0)
    X, Y = (torch.randn(bridge.ROWS, width, generator=made) for width in (typical[2], typical[1]))
    gauge("bridge: solve a layer", lambda: bridge.ridge(X, X @ torch.randn(X.shape[1], Y.shape[1], generator=made) + Y))
    stage = Stage({reading.action: reading for reading in gauge.readings}, _sizes(model, start))
    stage.operations["solved"] = work.regression(bridge.ROWS, typical[2], typical[1])
    stage.operations["solving"] = sum(work.solving(bridge.ROWS, *shape) for shape in shapes)
    given = _on_meta(said([PROMPT]))
    opened.__exit__(None, None, None)
    model.device = META
    layers = {
        layer: LowRank(*(factor.detach().to(META).requires_grad_() for factor in (dW.up, dW.down))) for layer, dW in start.items()
    }
    stage.operations["training"] = operations(lambda: _train(model, layers, seen, lambda prompts: given))
    with adapted(model, start), torch.no_grad():
        stage.operations["evaluation"] = operations(lambda: model.predict(seen.latents, seen.times, given))
        stage.operations["encoded"] = operations(lambda: model.encode_pictures(picture))
    return stage


def _train(model: Runner, layers: Mapping[str, LowRank], seen: NoisyBatch, said: Callable[[list[str]], Any]) -> None:
    """The gradient of one picture's loss, as refine takes it where latents are large."""
    with adapted(model, layers), recomputed(model.blocks()):
        predicted = model.predict(seen.latents, seen.times, said(seen.prompts))
        torch.autograd.backward(LARGEST_SCALE * (predicted - seen.noise.to(predicted)).square().mean())


def _on_meta(given: Conditioning) -> Conditioning:
    return Conditioning(given.context.to(META), None if given.pooled is None else given.pooled.to(META))


def _sizes(model: Runner, layers: Mapping[str, LowRank]) -> dict[str, int]:
    """Bytes."""
    parts = {"UNet": [model.unet], "text encoders": list(model.text_encoders.values()), "autoencoder": [model.vae]}
    sizes = {
        name: sum(one.numel() * one.element_size() for module in modules for one in module.parameters())
        for name, modules in parts.items()
    }
    return sizes | {"factors": sum(4 * (dW.up.numel() + dW.down.numel()) for dW in layers.values())}
