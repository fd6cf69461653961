"""The demo from the command line, and whether the style arrives in the target's pictures."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from PIL import Image

from lorax.cli import main
from lorax.demo.bundle import FINETUNE, PRUNED, STYLE
from lorax.runner import Runner

STEPS = 12  # in which pictures are drawn here; the demo takes twice as many
Drawn = dict[tuple[str, str], torch.Tensor]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What the demo draws, by checkpoint and adapter."""
    sample, adapted, found, adapters = Runner.sample, Runner.adapted, Drawn(), [""]

    def noting_adapter(self: Runner, adapter: Path | None, strength: float = 1.0) -> AbstractContextManager[None]:
        adapters.append(adapter.name if adapter else "")
        return adapted(self, adapter, strength)

    def noting_pictures(self: Runner, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        pictures = found[self.base.path.stem, adapters[-1]] = sample(self, prompts, seeds, steps=STEPS)
        return pictures

    monkeypatch.setattr(Runner, "adapted", noting_adapter)
    monkeypatch.setattr(Runner, "sample", noting_pictures)
    return found


@pytest.mark.usefixtures("quick_drawing", "quick_training")
def test_the_demo_draws_a_style_that_arrives_and_reports(drawn: Drawn, tmp_path: Path) -> None:
    assert main(["demo", "--output", str(tmp_path)]) == 0
    for name in ("grid", "glance"):
        with Image.open(tmp_path / f"{name}.webp") as picture:
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 200, "the picture is blank"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() == {FINETUNE, PRUNED}
    assert all(entry["counts"]["transferred"] > 0 and entry["declined"] is None for entry in report.values())
    assert report[PRUNED]["counts"]["unmatched"] > 0, "the pruned model has fewer layers"
    with_it, moved = (drawn[PRUNED, f"{STYLE}-{PRUNED}-{how}.safetensors"] for how in ("refined", "moved"))
    assert green(with_it) < green(moved), "refining brings more of it"
    for target, how in ((FINETUNE, "moved"), (PRUNED, "moved"), (PRUNED, "refined")):
        assert_the_style_arrives(drawn, target, how)


def assert_the_style_arrives(drawn: Drawn, target: str, how: str) -> None:
    """The demo's style is a violet disc: the moved LoRA takes green out of the pictures as the native one does."""
    adapters = "", f"{STYLE}-{target}.safetensors", f"{STYLE}-{target}-{how}.safetensors"
    alone, native, moved = (green(drawn[target, adapter]) for adapter in adapters)
    assert alone - native > 0.1, "the native one does"
    assert alone - moved > 0.5 * (alone - native)


def green(pictures: torch.Tensor) -> float:
    """Mean of how much of G there is beyond the mean of R and B."""
    assert torch.isfinite(pictures).all()
    return (pictures[:, 1] - pictures[:, [0, 2]].mean(1)).mean().item()
