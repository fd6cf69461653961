"""The bundled, really trained models: pairing, and every method against the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED
from lorax.formats import open_adapter
from lorax.methods import METHODS, WeightPair
from lorax.options import Options
from lorax.pairing import pair
from lorax.subspace import Decomposition, RankRule
from lorax.transfer import plan
from tests import reference
from tests.lab_models import LORA


def test_blocks_of_the_pruned_model_find_the_blocks_they_came_from(models: Path) -> None:
    base, pruned = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, PRUNED))
    kept = {"down_blocks": {"0": "0"}, "up_blocks": {"0": "0", "2": "1"}}
    for pairing in pair(base, pruned).values():
        if not pairing.source.startswith("unet."):
            continue
        parts = base.unet_names.to_diffusers(pairing.source.removeprefix("unet.")).split(".")
        if parts[0] in kept and parts[2] in ("resnets", "attentions"):
            parts[3] = kept[parts[0]].get(parts[3], "gone")
        expected = None if "gone" in parts else ".".join(parts)
        found = pairing.target and pruned.unet_names.to_diffusers(pairing.target.removeprefix("unet."))
        assert found == expected, pairing


@pytest.mark.parametrize("method", list(reference.METHODS))
@pytest.mark.parametrize("target_name", [FINETUNE, PRUNED])
def test_methods_against_the_reference_on_trained_layers(models: Path, method: str, target_name: str) -> None:
    adapter = open_adapter(LORA)
    base, target = (open_checkpoint(models / f"{name}.safetensors") for name in (BASE, target_name))
    pairs = plan(adapter, base, target, Options()).pairs
    compared = 0
    for name, pairing in list(pairs.items())[::9]:
        if pairing is None or pairing.target is None:
            continue
        W_s, W_t = base.weight(pairing.source), target.weight(pairing.target)
        bases = WeightPair(Decomposition(W_s), Decomposition(W_t), RankRule("50%"))
        if min(gap(bases.source.S, bases.r), gap(bases.target.S, bases.r)) <= 1e-3:
            continue
        delta = adapter.delta(name)
        dW = delta.scale * (delta.up.double() @ delta.down.double()).numpy()
        moved, _ = METHODS[method].move(delta, bases)
        assert moved is not None
        ours = moved.scale * (moved.up.double() @ moved.down.double()).numpy()
        theirs = reference.METHODS[method](dW, W_s.double().numpy(), W_t.double().numpy(), bases.r)
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(dW)
        compared += 1
    assert compared >= 5


def gap(S: torch.Tensor, r: int) -> float:
    return ((S[r - 1] - S[r]) / S[r - 1]).item()
