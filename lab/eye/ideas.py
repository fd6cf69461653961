"""What is moved to be looked at: copies and the tool's methods, and ideas for the strength of single layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lab import variants
from lab.eye.at_length import AT_LENGTH
from lab.eye.by_models import BY_MODELS, HALVED, MIXED, SCAFFOLD, SIGNS, WEIGHTED
from lab.eye.teaching import moved_as
from lab.variants import AUTO, BY_NAME, COPY, FROM_BRIDGE, LORAX, Variant, written
from lab.zoo import (
    ADAPTERS,
    AGAIN,
    CHOOSING,
    FURTHER,
    NEAR,
    REPORTING,
    SCRATCH,
    SCRATCH_AGAIN,
    SCRATCH_LONG,
    SHOWN,
    XL,
    XL_LONG,
    XL_PRUNED,
    Adapter,
)
from lorax.checkpoint import Checkpoint
from lorax.demo.bundle import FINETUNE, PRUNED
from lorax.methods import BRIDGE, REFINE, Kinship, refine
from lorax.options import Options
from lorax.transfer import Layers, Moved, Plan
from lorax.transfer.report import LayerRecord

Strength = Callable[[LayerRecord], float]


def _less_own_overlap(record: LayerRecord) -> float:
    """Each layer at 1 less the share of it that the target has already."""
    return min(1.0, max(0.0, 1 - (record.overlap or 0.0)))


def _text_whole(record: LayerRecord) -> float:
    """The text encoder at twice the UNet's strength."""
    return 1.0 if (record.target or "").startswith("unet.") else 2.0


def _without_doors(record: LayerRecord) -> float:
    """All but the blocks' entry and exit projections."""
    return 0.0 if (record.target or "").endswith(("proj_in", "proj_out")) else 1.0


def _at_rate(rate: float) -> dict[Kinship, refine.Effort]:
    """What refine takes, at another rate."""
    return {kinship: replace(effort, rate=rate) for kinship, effort in refine.EFFORTS.items()}


IDEAS: dict[str, Strength] = {
    "less own overlap": _less_own_overlap,
    "text at twice": _text_whole,
    "without entry and exit": _without_doors,
}
LOST = ("text at twice", "without entry and exit")  # gained nothing over a copy on the styles for choosing
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
FULL = "refine in full"  # to SDXL, what it took before its cost was measured
ON_NOISE = {  # what it was before it learned answers
    name: Variant(name, Options(REFINE), pictures=pictures, steps=steps, constants=(("SAME_LATENTS", frozenset()),))
    for pictures, steps in ((64, 10), (256, 100))
    for name in [f"refine on noise, {steps} steps"]
}
NOISE_10, NOISE_100 = ON_NOISE
REFINES = {FULL: Variant(FULL, Options(REFINE), pictures=384, steps=150, constants=(("BATCH", 16),))} | ON_NOISE
CHEAPER = {  # to SDXL: pictures, of which so many a step, and steps
    name: Variant(name, Options(REFINE), pictures=pictures, steps=steps, constants=(("BATCH", batch),))
    for pictures, batch, steps in (
        *((pictures, 8, 120) for pictures in (32, 64, 128)),
        *((128, batch, 120) for batch in (4, 16)),
        *((128, 8, steps) for steps in (60, 240)),
        (256, 8, 120),
    )
    for name in [f"refine, {pictures} pictures, {batch} a step, {steps} steps"]
}
SLOWER = "refine, 64 pictures, 200 steps of 16 at a lower rate"
ON_ANSWERS = {  # on answers: pictures and steps
    name: Variant(name, Options(REFINE), pictures=pictures, steps=steps)
    for pictures, steps in ((64, 30), (64, 300), (128, 300))
    for name in [f"refine, {pictures} pictures, {steps} steps"]
} | {SLOWER: Variant(SLOWER, Options(REFINE), pictures=64, steps=200, constants=(("BATCH", 16), ("EFFORTS", _at_rate(2e-3))))}
ANSWERS_30, ANSWERS_300, MORE_ANSWERS, _ = ON_ANSWERS
BETWEEN_STRANGERS = (ANSWERS_300, MORE_ANSWERS, SLOWER, AT_LENGTH)
TRIED = {**CHEAPER, **ON_ANSWERS, **BY_MODELS}  # on the styles for choosing
ANOTHER = "native, another seed"  # on the styles for reporting
ONLY_CHOOSING = frozenset({*LOST, *TRIED}) - {AT_LENGTH}  # with the styles for choosing alone
BY_THE_WAY = ONLY_CHOOSING | {AT_LENGTH, ANOTHER}  # with their losses at strength 1 alone
BESIDE_REFINE = (*MIXED, SCAFFOLD, SIGNS, FROM_BRIDGE)
# ``auto`` is a copy at a strength of its own, so a copy's curve is its curve; what it gives as it is is one point.
DRAWN = {  # on each target; by name is a copy where all names are the same
    FINETUNE: (ANOTHER, AUTO, COPY, LORAX, *IDEAS, REFINE, NOISE_10, ANSWERS_30, ANSWERS_300, *MIXED, SCAFFOLD, SIGNS),
    PRUNED: (ANOTHER, AUTO, BY_NAME, COPY, LORAX, *IDEAS, REFINE, NOISE_100, ANSWERS_30, ANSWERS_300, SCAFFOLD, AT_LENGTH),
    SCRATCH: (COPY, BRIDGE, REFINE, NOISE_100, *BETWEEN_STRANGERS, FROM_BRIDGE, WEIGHTED, *HALVED),
    XL: (BRIDGE, REFINE, FULL, *CHEAPER),  # where no layer has a copy
    SCRATCH_LONG: (COPY, BRIDGE, REFINE, AT_LENGTH),
    SCRATCH_AGAIN: (COPY, BRIDGE, REFINE),
    XL_LONG: (BRIDGE, REFINE),
    XL_PRUNED: (COPY, LORAX, REFINE, NOISE_10),
    NEAR: (AUTO, COPY, LORAX, REFINE),
    FURTHER: (ANOTHER, AUTO, COPY, LORAX, REFINE, SCAFFOLD),
}
VARIANTS = dict.fromkeys(itertools.chain(*DRAWN.values()), STRENGTHS) | {AUTO: (1.0,)}
DRAWN_OF_KINDS = (BY_NAME, COPY, REFINE)  # what is drawn with other kinds of LoRA, and with characters
CHOSEN_ON = FINETUNE  # where ideas were chosen; what lost there is drawn nowhere else


def is_drawn(variant: str, target: str, style: str) -> bool:
    """Whether a variant is drawn on a target, with the LoRA of a style."""
    if style not in SHOWN:
        return variant in DRAWN_OF_KINDS and variant in DRAWN[target]
    is_left = variant not in LOST or target == CHOSEN_ON
    styles = REPORTING if variant == ANOTHER else CHOOSING if variant in ONLY_CHOOSING else SHOWN
    return is_left and style in styles and variant in DRAWN[target]


def another(adapter: Adapter, target: str) -> Path:
    """Where the native LoRA of another seed is."""
    return ADAPTERS[f"{adapter.icons}-{AGAIN}"].path(target)


def strengths_of(variant: str) -> tuple[float, ...]:
    """At which a variant is drawn, or the native adapter."""
    return VARIANTS.get(variant, STRENGTHS)


@contextmanager
def moved_by(variant: str, adapter: Adapter, source: str, target: Checkpoint) -> Iterator[Path | None]:
    """A file with the adapter as the variant moves it, for the length of the block; None where nothing is moved."""
    if variant == ANOTHER:
        yield another(adapter, target.path.stem)
        return
    planned, moved = _moved(variant, adapter, source, target)
    with written(planned, moved) as path:
        yield path


def _moved(variant: str, adapter: Adapter, source: str, target: Checkpoint) -> tuple[Plan, Moved]:
    if idea := BY_MODELS.get(variant):
        return idea(adapter, source, target)
    method = (REFINES | CHEAPER | ON_ANSWERS).get(variant) or variants.VARIANTS[COPY if variant in IDEAS else variant]
    planned, moved = moved_as(method, adapter, source, target)
    return planned, _by_layer(moved, IDEAS[variant]) if variant in IDEAS else moved


def _by_layer(moved: Moved, strength: Strength) -> Moved:
    records = {record.target: record for record in moved.report.records if record.is_transferred}
    scaled = ((layer, dW.times(strength(records[layer]))) for layer, dW in moved.layers.items())
    return replace(moved, layers=Layers.of(scaled))
