"""LoRA-X adapters against LoRAs: trained on one base with the budget of its LoRAs, and moved to its relatives."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from lab import measure, writing
from lab.bundle import model_of, runner_of
from lab.loop import train
from lab.lora import training_icons
from lab.models import Captioner
from lab.paths import CACHE
from lab.results import Key, Results
from lab.unet import Batches, denoising_loss
from lab.zoo import ADAPTERS, HEADLINE_RANK, STYLES, Adapter, checkpoint
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.subspace import RankRule
from lorax.training import ATTENTION, CONVOLUTION, TEXT, Settings, inject, save
from lorax.training.files import FACTORS
from lorax.transfer import plan, run

SOURCE, TARGETS = BASE, (FINETUNE, PRUNED)
METHODS = {"copy": Options("copy"), "lorax": Options("lorax", threshold=0), "auto": Options("auto")}


@dataclass(frozen=True)
class Kind:
    """A way to constrain an adapter. ``equal``: each layer has as many parameters as a LoRA of this rank, if it can."""

    name: str
    title: str
    core: str
    rate: float
    equal: int | None = None

    def settings(self, base: Checkpoint) -> Settings:
        if self.equal is None:
            return Settings(self.core)
        ranks = {re.escape(layer): RankRule(str(round((self.equal * sum(shape)) ** 0.5))) for layer, shape in _flat(base).items()}
        return Settings(self.core, ranks=ranks)

    def path(self, adapter: Adapter) -> Path:
        return CACHE / "lora-x" / f"{adapter.icons}-{self.name.replace(' ', '-')}-{SOURCE}.safetensors"


KINDS = (
    Kind("diagonal", "diagonal core at 25 %, rank 16 in most layers", "diagonal", 1e-2),
    Kind("full", f"full core of as many parameters as a LoRA of rank {HEADLINE_RANK}", "full", 2e-3, equal=HEADLINE_RANK),
)


def folder(results: Path) -> Path:
    """Where the losses are, beside what the sweep has measured."""
    return results / "lora-x"


def learn(runs: Path, kind: Kind, adapter: Adapter) -> None:
    """Train on the source what its LoRA is trained on, with as many steps, and save it with factors."""
    runner = runner_of(SOURCE)
    model = model_of(runner).train().requires_grad_(False)
    layers = "|".join([ATTENTION, TEXT, *([CONVOLUTION] if adapter.convolution else [])])
    network = inject(runner.base, model.unet, [model.text_encoder], layers=layers, settings=kind.settings(runner.base))
    batches = Batches(training_icons(adapter), runner.vae, Captioner(runner.tokenizer))
    averaged = train(
        f"{adapter.icons}-{kind.name}",
        runs,
        nn.ParameterList(network.parameters()),
        denoising_loss(model, batches, adapter.batch),
        steps=adapter.steps,
        rate=kind.rate,
        decay=0.99,
        weight_decay=0.0,
        warmup=20,
    )
    for own, mean in zip(network.parameters(), averaged, strict=True):
        own.data.copy_(mean)
    kind.path(adapter).parent.mkdir(parents=True, exist_ok=True)
    save(network, kind.path(adapter), FACTORS, dtype="fp32", overwrite=True)


def measure_all(results: Results, runs: Path) -> None:
    """Train what is not trained, and measure what is not measured: on the source, and moved to each target.

    Style by style, so that what is there when it is stopped can be reported.
    """
    runner = cache(runner_of)
    for style in STYLES:
        adapter = ADAPTERS[f"{style}-r{HEADLINE_RANK}"]
        for kind in KINDS:
            if not kind.path(adapter).exists():
                learn(runs, kind, adapter)
            for target in (SOURCE, *TARGETS):
                losses = cache(lambda target=target, adapter=adapter: measure.of_adapter(runner(target), adapter))
                for method, options in METHODS.items() if target != SOURCE else [("", None)]:
                    key = Key(target, adapter.name, " by ".join(filter(None, (kind.name, method))), SOURCE)
                    if key not in results.losses:
                        path = kind.path(adapter)
                        results.add_losses(key, losses().of(path) if options is None else _moved(losses(), path, options))


def _moved(losses: measure.Losses, path: Path, options: Options) -> torch.Tensor:
    source = open_checkpoint(checkpoint(SOURCE))
    planned = plan(open_adapter(path), source, losses.runner.base, options)
    moved = run(planned)
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "moved.safetensors"
        writing.write(planned, moved, file, dtype="fp32")
        return losses.of(file)


def _flat(base: Checkpoint) -> Mapping[str, tuple[int, int]]:
    return {layer: (shape[0], base.weight(layer).shape[1]) for layer, shape in base.layers.items()}
