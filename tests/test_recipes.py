"""Pruned relatives made by the recipes of the known ones: each block that was kept is fed by the block that it was."""

from __future__ import annotations

import pytest

from lorax.pairing import pair
from tests import builders, families
from tests.recipes import RECIPES
from tests.tensor_files import opened


@pytest.mark.parametrize("noise", [0.0, 0.6], ids=["exact", "noise"])
@pytest.mark.parametrize("name", RECIPES)
def test_kept_blocks_find_their_origin(name: str, noise: float) -> None:
    """Training may have changed the kept blocks; and the other way, blocks of the pruned base feed the ones they were."""
    recipe = RECIPES[name]
    there = {param.diffusers: param for param in recipe.whole}
    whole = {builders.UNET + path: value for path, value in families.random_state(recipe.whole, 0).items()}
    origin = {param.ldm: there[recipe.origin(param.diffusers)].ldm for param in recipe.pruned}
    pruned = builders.relative({builders.UNET + kept: whole[builders.UNET + path] for kept, path in origin.items()}, noise=noise)
    one, other = opened(whole), opened(pruned)
    assert other.layers.keys() == {f"unet.{param.ldm.removesuffix('.weight')}" for param in recipe.pruned if param.is_layer}
    expected = {f"unet.{origin[f'{kept[5:]}.weight']}".removesuffix(".weight"): kept for kept in other.layers}
    assert {layer: found.target for layer, found in pair(one, other).items()} == {
        layer: expected.get(layer) for layer in one.layers
    }
    assert {layer: found.target for layer, found in pair(other, one).items()} == {kept: layer for layer, kept in expected.items()}
