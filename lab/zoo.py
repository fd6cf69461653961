"""The bases and the adapters of the lab: what each is, what it is related to, and where it is kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from lab.paths import CHECKPOINTS, EXTRA_LORAS, HEADLINE, LORAS
from lorax.demo.bundle import BASE, FINETUNE, PACKED, PRUNED, STYLE, WHOLE
from lorax.transfer.expected import CROSSED, RELATIVES, STRANGERS

SCRATCH, XL, XL_PRUNED = "scratch", "xl", "xl-pruned"
NEAR, FURTHER = "near", "further"  # fine-tunes that are measured by pictures alone
SCRATCH_LONG, XL_LONG = "scratch-long", "xl-long"
SCRATCH_AGAIN = "scratch-again"  # as scratch, from another seed
LONGER = {SCRATCH_LONG: SCRATCH, XL_LONG: XL}  # what each was trained on from
UNCOMMITTED = {**LONGER, SCRATCH_AGAIN: SCRATCH}  # looked at in pictures alone: whose structure each has
FROM_SCRATCH = (SCRATCH, SCRATCH_LONG)
FROM_XL = (XL, XL_PRUNED, XL_LONG)
OWN_ICONS = {  # a set that each base has learned: its ordinary captions
    BASE: "twemoji",
    FINETUNE: "noto",
    PRUNED: "twemoji",
    SCRATCH: "twemoji",
    XL: "twemoji",
    XL_PRUNED: "twemoji",
    NEAR: "twemoji",
    FURTHER: "contrast",
    SCRATCH_LONG: "twemoji",
    XL_LONG: "twemoji",
    SCRATCH_AGAIN: "twemoji",
}
BASES = (BASE, FINETUNE, PRUNED, SCRATCH, XL, XL_PRUNED)
STRUCTURES = ((BASE, FINETUNE, PRUNED, SCRATCH), (XL, XL_PRUNED))  # an adapter can move within one
HEADLINE_PAIRS = ((BASE, FINETUNE), (BASE, PRUNED), (BASE, SCRATCH), (XL, XL_PRUNED))
CROSSING = (BASE, XL)  # from structure to structure: only what runs the models gets across
ALL_PAIRS = tuple((s, t) for structure in STRUCTURES for s in structure for t in structure if s != t)


@dataclass(frozen=True)
class FineTune:
    """What the base is trained on towards: icon sets, and for how long."""

    sets: tuple[str, ...]
    steps: int
    rate: float
    seed: int


FINETUNES = {
    FINETUNE: FineTune(("noto", "flat", "fxemoji"), 1000, 1e-3, seed=2),
    NEAR: FineTune(("twemoji", "emojione", "noto"), 600, 5e-4, seed=7),
    FURTHER: FineTune(("contrast", "streamline"), 1500, 1e-3, seed=8),
}


def are_related(source: str, target: str) -> bool:
    """Whether one comes from the other's weights, or both from a third's."""
    return all((source in kin) == (target in kin) for kin in (FROM_SCRATCH, (SCRATCH_AGAIN,), FROM_XL))


def kind_of(source: str, target: str) -> str:
    """Return the kind of a pair, as ``lorax`` tells them apart."""
    if (source in FROM_XL) != (target in FROM_XL):
        return CROSSED
    return RELATIVES if are_related(source, target) else STRANGERS


@dataclass(frozen=True)
class Adapter:
    """What is learned on every base, with the same budget on each.

    ``icons``: the icon set of a style, or the subject of a concept.
    """

    name: str
    icons: str
    rank: int
    rate: float
    steps: int = 200
    batch: int = 16
    convolution: bool = False
    text: bool = True  # whether the text encoder is trained, too
    kind: str = ""  # in ``KINDS``, or ``CHARACTER``
    bases: tuple[str, ...] = BASES

    @property
    def is_concept(self) -> bool:
        return self.icons == CONCEPT

    @property
    def is_character(self) -> bool:
        return self.kind == CHARACTER

    @property
    def is_again(self) -> bool:
        return self.name.endswith(AGAIN)

    @property
    def is_style(self) -> bool:
        """One of four that are trained with one budget."""
        return self.icons in STYLES and self.name != STARK

    def touches(self, part: str) -> bool:
        """Whether a part of a model is trained: its UNet always, its text encoders unless left out."""
        return part == "unet" or self.text

    def path(self, base: str) -> Path:
        return EXTRA_LORAS / f"{self.name}-{base}{WHOLE}"

    def packed(self, base: str) -> Path | None:
        """Return where it is committed: for the demo, for the headline, for tests, or to be looked at; None if it is not."""
        is_of_demo = self.name == STYLE and base in (BASE, FINETUNE, PRUNED)
        is_moved = self.icons in SHOWN and not self.kind and base == BASE  # to be looked at, from this base alone
        is_kept = is_moved or self.name == STARK or (self.rank == HEADLINE_RANK and self.is_style)
        folder = LORAS if is_of_demo else HEADLINE / "loras" if is_kept else None
        return folder and folder / f"{self.name}-{base}{PACKED}"


# Written down before the first of them was trained: methods are chosen by the first half alone, and judged by the second.
CHOOSING = ("ink", "duotone", "mosaic", "badge")
REPORTING = ("blueprint", "neon", "stencil", "frame")
SHOWN = (*CHOOSING, *REPORTING)  # styles that differ to the eye, trained until they do (lab/styles.py)
CHOOSING_CHARACTERS, REPORTING_CHARACTERS = ("pib",), ("krag", "mulu")
CHARACTERS = (*CHOOSING_CHARACTERS, *REPORTING_CHARACTERS)  # lab/characters.py
CHARACTER = "character"
KIND_STYLES = ("neon", "frame")  # of those for reporting, since no method is chosen by other kinds of LoRA
CONCEPT = "eggplant"  # a subject that no base has seen
STYLES = ("contrast", "openmoji", "blobs", "streamline")
STARK = "contrast"  # an adapter that was trained for longer than the others of these styles
HEADLINE_RANK = 4
AGAIN = "again"
LONG = 1600  # steps after which a style is seen at a glance; after 200 it is not
RATES = {4: 2e-3, 16: 1e-3, 64: 5e-4}  # with these the gain on held-out icons is near its plateau at strength 1


@dataclass(frozen=True)
class Kind:
    """How a LoRA is made otherwise than the usual ones, which have rank 4, no convolutions, and the text encoder."""

    rank: int
    rate: float
    convolution: bool = False
    text: bool = True


KINDS = {
    "r16": Kind(16, RATES[16]),
    "r32": Kind(32, 7e-4),
    "locon": Kind(16, RATES[16], convolution=True),
    "unet": Kind(16, RATES[16], text=False),
}
KIND_BASES = (BASE, FINETUNE, PRUNED)
OF_KINDS = {kind: tuple(f"{style}-{kind}" for style in KIND_STYLES) for kind in KINDS}
LOOKED_AT = (*SHOWN, *itertools.chain(*OF_KINDS.values()), *CHARACTERS)


def _adapters() -> list[Adapter]:
    stark = Adapter(STARK, STARK, 4, 3e-3, steps=500, batch=32, bases=(BASE, FINETUNE, PRUNED))
    lab = [
        Adapter(f"{icons}-r{rank}", icons, rank, rate, convolution=icons == "openmoji")
        for rank, rate in RATES.items()
        for icons in (*STYLES, CONCEPT)
    ]
    looked_at = (*BASES, NEAR, FURTHER, *UNCOMMITTED)
    shown = [Adapter(f"{icons}-long", icons, 4, RATES[4], steps=LONG, bases=looked_at) for icons in SHOWN]
    # Where most is said of them, another seed tells how far two natives are apart. The order makes it another one on each.
    again_on = (PRUNED, FURTHER, FINETUNE)
    again = [replace(one, name=f"{one.icons}-{AGAIN}", bases=again_on) for one in shown if one.icons in REPORTING]
    kinds = [
        Adapter(f"{icons}-{name}-long", icons, **vars(kind), steps=LONG, kind=name, bases=KIND_BASES)
        for name, kind in KINDS.items()
        for icons in KIND_STYLES
    ]
    characters = [
        Adapter(f"{icons}-long", icons, 4, RATES[4], steps=LONG, kind=CHARACTER, bases=KIND_BASES) for icons in CHARACTERS
    ]
    return [stark, *lab, *shown, *again, *kinds, *characters]


ADAPTERS = {adapter.name: adapter for adapter in _adapters()}


def others(adapter: Adapter) -> list[Adapter]:
    """The other styles' or characters' adapters of the same budget: what they give on its icons is no sign of its style."""
    found = [one for one in ADAPTERS.values() if one.icons != adapter.icons and not one.is_concept and not one.is_again]
    budget = _budget(adapter)
    return [one for one in found if _budget(one) == budget]


def _budget(adapter: Adapter) -> tuple[object, ...]:
    return adapter.rank, adapter.steps, adapter.batch, adapter.kind


def checkpoint(base: str) -> Path:
    """The whole checkpoint; ``lab.bundle.runner_of`` makes it."""
    return CHECKPOINTS / f"{base}.safetensors"
