"""Reasons as data: the phrase of each, and the phrase that layers of like reasons share."""

from __future__ import annotations

import pytest

from lorax.reasons import Reason, Why

SHAPES = {"source": (320, 768), "target": (320, 1024)}
PHRASES = [
    (
        Reason(Why.WEIGHTS_MOST_ALIKE, {"blocks": 5, "cosine": 0.876}),
        "weights most alike of 5 blocks (cosine 0.88)",
        "weights most alike of 5 blocks",
    ),
    (Reason(Why.NO_COMPONENT, {"component": "CLIP ViT-L"}), "the target has no CLIP ViT-L", "the target has no CLIP ViT-L"),
    (
        Reason(Why.CANNOT_BE_COPIED, SHAPES),
        "shapes differ ((320, 768) and (320, 1024)), so it cannot be copied",
        "shapes differ, so it cannot be copied",
    ),
    (
        Reason(Why.PROJECTED_INSIDE, {"rank": 8, "share": 0.973}),
        "projected at rank 8: 97% of the delta lies in the target's subspace",
        "projected",
    ),
    (
        Reason(Why.BELOW_THRESHOLD, {"similarity": 0.123, "threshold": 0.3}),
        "similarity 0.12 is below the threshold 0.3",
        "similarity below the threshold 0.3",
    ),
    (
        Reason(Why.CARRIED, {"rank": 8}).but(Reason(Why.NOT_GATED)),
        "carried by the least-squares map at rank 8; similarity is undefined for unequal shapes, so not gated",
        "carried by the least-squares map; similarity is undefined for unequal shapes, so not gated",
    ),
    (
        Reason(Why.SAME_NAME).but(Reason(Why.ON_ENCODER_INPUTS, {"width": 768, "encoder": "CLIP ViT-L"})),
        "same name, on the 768 inputs of CLIP ViT-L",
        "same name, on the 768 inputs of CLIP ViT-L",
    ),
]


@pytest.mark.parametrize(("reason", "text", "general"), PHRASES, ids=[reason.kind.name for reason, _, _ in PHRASES])
def test_phrases(reason: Reason, text: str, general: str) -> None:
    assert (reason.text, str(reason), reason.general) == (text, text, general)


def test_reasons_are_equal_by_what_they_say_and_can_be_counted() -> None:
    one, same, other = (Reason(Why.PROJECTED, {"rank": rank}) for rank in (8, 8, 4))
    assert one == same != other
    assert len({one, same, other, Reason(Why.COPIED)}) == 3
