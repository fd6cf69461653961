"""What is expected of a transfer before it is done: what it is worth, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

RELATIVES, STRANGERS, CROSSED = "relatives", "strangers", "families"  # kinds of pairs of bases


@dataclass(frozen=True)
class Cost:
    """Time and memory. ``bytes`` is the most at any time, of the device's own memory if that is a graphics card."""

    seconds: float
    bytes: int
    device: str


@dataclass(frozen=True)
class Forecast:
    """Recovery at strength 1 of transfers by weights; nine of ten that were measured lie within ``low`` and ``high``.

    Recovery is 1 for a LoRA that was trained on the target itself, 0 for none, and below 0 for harm.
    """

    mean: float
    low: float
    high: float
    related: bool  # the two bases


@dataclass(frozen=True)
class Measured:
    """Recovery at strength 1 of transfers by a method that runs the models: mean, least and most for a kind of pair."""

    kind: str
    mean: float
    low: float
    high: float
    pairs: int
    transfers: int


@dataclass(frozen=True)
class Proposal:
    """Another method for what was declined: what it was worth between such bases, and what it takes."""

    method: str
    worth: Measured
    cost: Cost
