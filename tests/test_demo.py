"""The demo from the command line, and whether the style arrives in the target's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lorax.cli import main
from lorax.demo import PROMPTS, SEED
from lorax.demo.bundle import BUNDLE, FINETUNE, PRUNED, STYLE
from lorax.runner import Runner


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "output"
    assert main(["demo", "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("picture", ["grid", "glance"])
def test_the_demo_draws(output: Path, picture: str) -> None:
    with Image.open(output / f"{picture}.png") as drawn:
        assert min(drawn.size) > 400
        assert len(drawn.convert("RGB").getcolors(1 << 24) or ()) > 1000, "the picture is blank"


def test_the_demo_writes_a_report(output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    assert report.keys() == {FINETUNE, PRUNED}
    assert all(entry["counts"]["transferred"] > 0 and entry["declined"] is None for entry in report.values())
    assert report[PRUNED]["counts"]["unmatched"] > 0, "the pruned model has fewer layers"


@pytest.mark.parametrize("target", [FINETUNE, PRUNED])
def test_the_style_arrives(output: Path, target: str) -> None:
    """The demo's style is black on white: the transferred LoRA takes colour out of the pictures as the native one does."""
    runner = Runner(output / "models" / f"{target}.safetensors", output / "models" / "tokenizer")
    alone = colour(runner, None)
    native = colour(runner, BUNDLE / "loras" / f"{STYLE}-{target}.safetensors")
    moved = colour(runner, output / f"{STYLE}-{target}-transferred.safetensors")
    assert alone > 0.1, "the target's own pictures are in colour"
    assert alone - native > alone / 2
    assert alone - moved > 0.7 * (alone - native)


def colour(runner: Runner, adapter: Path | None) -> float:
    """Mean distance between the largest and the smallest of R, G, B."""
    with runner.adapted(adapter):
        pictures = runner.sample(PROMPTS, [SEED + i for i in range(len(PROMPTS))])
    assert torch.isfinite(pictures).all()
    return (pictures.amax(1) - pictures.amin(1)).mean().item()
