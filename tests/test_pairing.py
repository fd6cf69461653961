"""Pairing where the depth of attention modules differs: what was kept is fed by its own block, and the reason is true."""

from __future__ import annotations

import re

from lorax.checkpoint import block_of
from lorax.pairing import pair
from lorax.reasons import Why
from tests import builders
from tests.tensor_files import opened


def deepened(state: builders.State, block: str) -> builders.State:
    """One attention module gets a second transformer block."""
    more = {}
    for key, value in state.items():
        if key.startswith(f"{builders.UNET}{block}.transformer_blocks.0."):
            more[key.replace("transformer_blocks.0", "transformer_blocks.1")] = value.flip(0)
    return state | more


def test_modules_of_unlike_depth_are_paired_block_by_block() -> None:
    """What the target keeps of the module is fed; the transformer block that only the source has is not."""
    base = builders.base()
    deep = deepened(base, "middle_block.1")
    for source, target in ((deep, base), (base, deep)):
        pairs = pair(opened(source), opened(target))
        assert pairs.keys() == opened(source).layers.keys()
        for layer, found in pairs.items():
            if block_of(layer) == "unet.middle_block.1.transformer_blocks.1":
                assert found.target is None
                assert found.reason.kind is Why.OTHER_BLOCKS_MORE_ALIKE
            else:
                assert found.target == layer, found


def test_blocks_of_which_the_target_has_none_are_unmatched() -> None:
    base = builders.base()
    without = {key: value for key, value in base.items() if not key.startswith(f"{builders.UNET}middle_block.1.")}
    for layer, found in pair(opened(base), opened(without)).items():
        gone = layer.startswith("unet.middle_block.1.")
        assert found.target == (None if gone else layer), found
        assert not gone or found.reason.text == "no block of the target in this role has the same layers and shapes"


def test_by_name_the_layers_that_both_have_are_paired() -> None:
    base = builders.base()
    for layer, found in pair(opened(deepened(base, "middle_block.1")), opened(base), "name").items():
        gone = "transformer_blocks.1" in layer
        expected = (None, "the target has no layer of this name") if gone else (layer, "same name")
        assert (found.target, found.reason.text) == expected


def test_blocks_of_like_depth_are_paired_with_all_that_is_in_them() -> None:
    """The target is the source with two neighbouring attention modules exchanged, of which one is deep."""
    source = deepened(builders.base(), "input_blocks.4.1")
    swap = {"input_blocks.4.1": "input_blocks.5.1", "input_blocks.5.1": "input_blocks.4.1"}

    def swapped(path: str) -> str:
        return re.sub(r"input_blocks\.[45]\.1(?=\.)", lambda found: swap[found[0]], path)

    pairs = pair(opened(source), opened({swapped(key): value for key, value in source.items()}))
    assert {layer: found.target for layer, found in pairs.items()} == {layer: swapped(layer) for layer in pairs}
