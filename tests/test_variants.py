"""What the lab compares: controls that know nothing of the style, and every method under its own name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab import zoo
from lab.variants import BY_NAME, COPY, RANDOM, VARIANTS, WRONG, Variant, move, random_like
from lab.zoo import ADAPTERS, CONCEPT, STYLES
from lorax.checkpoint import open_checkpoint
from lorax.low_rank import LowRank
from lorax.methods import METHODS, runs_models
from lorax.transfer import Moved
from tests import builders
from tests.samples import Files


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(delta: LowRank) -> torch.Tensor:
    return delta.scale * (delta.up.double() @ delta.down.double())


@pytest.fixture
def moving(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """An adapter of each style and of the concept for a base, as strong as its place in the list."""
    monkeypatch.setattr(zoo, "EXTRA_LORAS", tmp_path)
    for strength, icons in enumerate((*STYLES, CONCEPT), start=1):
        deltas = builders.deltas(alpha=float(strength))
        builders.save_lora(ADAPTERS[f"{icons}-r4"].path("base"), deltas)
    return files


def moved(files: Files, variant: Variant, icons: str) -> Moved:
    source, target = open_checkpoint(files.base), open_checkpoint(files.target)
    return move(variant, ADAPTERS[f"{icons}-r4"], "base", source, target)[1]


def test_a_random_delta_keeps_shape_norm_and_rank() -> None:
    delta = LowRank(torch.randn(24, 3, generator=generator(1)), torch.randn(3, 16, generator=generator(2)), 0.3)
    drawn = random_like(delta, generator())
    assert dense(drawn).shape == dense(delta).shape
    assert dense(drawn).norm().item() == pytest.approx(dense(delta).norm().item())
    assert torch.linalg.matrix_rank(dense(drawn)) == drawn.rank == 3
    assert abs((dense(drawn) * dense(delta)).sum() / dense(delta).norm() ** 2) < 0.3
    assert torch.equal(dense(drawn), dense(random_like(delta, generator())))
    assert not torch.allclose(dense(drawn), dense(random_like(delta, generator(5))))


def test_the_random_control_is_as_strong_as_the_copy_layer_by_layer(moving: Files) -> None:
    copied, drawn = moved(moving, VARIANTS[COPY], STYLES[0]).layers, moved(moving, VARIANTS[RANDOM], STYLES[0]).layers
    assert drawn.keys() == copied.keys()
    for layer, delta in drawn.items():
        assert delta.norm() == pytest.approx(copied[layer].norm())
        assert not torch.allclose(dense(delta), dense(copied[layer]))


@pytest.mark.parametrize("icons", [*STYLES, CONCEPT])
def test_the_wrong_style_is_another_ones_copy(moving: Files, icons: str) -> None:
    wrong = moved(moving, VARIANTS[WRONG], icons).layers
    own, *others = (moved(moving, VARIANTS[COPY], one).layers for one in (icons, *(s for s in STYLES if s != icons)))
    assert not same(wrong, own)
    assert sum(same(wrong, other) for other in others) == 1


def same(one: dict[str, LowRank], other: dict[str, LowRank]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(dense(one[layer]), dense(other[layer])) for layer in one)


def test_no_style_stands_in_for_two(moving: Files) -> None:
    wrong = [moved(moving, VARIANTS[WRONG], icons).layers for icons in STYLES]
    assert not any(same(one, other) for i, one in enumerate(wrong) for other in wrong[:i])


def test_every_method_is_compared_under_its_name() -> None:
    assert all(variant.name == name for name, variant in VARIANTS.items())
    headline = [variant.options.method for variant in VARIANTS.values() if variant.question == "headline"]
    assert set(headline) == {name for name in METHODS if not runs_models(name)}
    assert set(METHODS) - set(headline) <= VARIANTS.keys()
    assert VARIANTS[BY_NAME].options.pairing == "name"
