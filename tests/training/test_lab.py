"""The lab's comparison of LoRA-X adapters with LoRAs: equal parameters, and the table from stored losses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

from lab.constrained import KINDS, METHODS, SOURCE, TARGETS, folder
from lab.report import trained
from lab.results import ALONE, NATIVE, Key, Results
from lorax.runner import Runner
from lorax.training import ATTENTION, TEXT


def test_a_full_core_has_as_many_parameters_as_the_lora(runner: Runner) -> None:
    settings = next(kind for kind in KINDS if kind.name == "full").settings(runner.base)
    cores = loras = 0
    for layer, (m, *rest) in runner.base.layers.items():
        if re.fullmatch(f"{ATTENTION}|{TEXT}", layer):
            n = math.prod(rest)
            cores += settings.rank_of(layer).of(torch.ones(min(m, n))) ** 2
            loras += 4 * (m + n)
    assert abs(cores / loras - 1) < 0.05


def test_the_table_says_what_the_losses_say(tmp_path: Path) -> None:
    """The LoRA gains 0.5 everywhere; a LoRA-X adapter half of it on the source, and a tenth more than a moved LoRA elsewhere."""
    stored, style = Results(tmp_path), "blobs"
    assert trained.section(stored, tmp_path) is None
    own = Results(folder(tmp_path))
    alone = torch.full((12, 5), 1.0)
    for place in (SOURCE, *TARGETS):
        stored.add_losses(Key(place, f"{style}-r4", ALONE), alone)
        stored.add_losses(Key(place, f"{style}-r4", NATIVE), alone - 0.5)
        for kind in KINDS:
            if place == SOURCE:
                own.add_losses(Key(place, f"{style}-r4", kind.name, SOURCE), alone - 0.25)
            for method in METHODS if place != SOURCE else ():
                stored.add_losses(Key(place, f"{style}-r4", method, SOURCE), alone - 0.3)
                own.add_losses(Key(place, f"{style}-r4", f"{kind.name} by {method}", SOURCE), alone - 0.35)
    found = trained.section(Results(tmp_path), tmp_path)
    assert found is not None
    assert found["styles"] == [style]
    lines = found["table"].splitlines()
    assert [line.split(" | ")[0].lstrip("| ") for line in lines[2:]] == [*(f"LoRA-X, {k.title}" for k in KINDS), "LoRA of rank 4"]
    assert lines[2].split(" | ")[1:3] == ["0.50 [0.50, 0.50]", "0.70 [0.70, 0.70]"]
    assert lines[-1].split(" | ")[1:3] == ["1.00 [1.00, 1.00]", "0.60 [0.60, 0.60]"]
