"""Forecasts and costs of a transfer, as data."""

from dataclasses import dataclass

RELATIVES, STRANGERS, CROSSED = "relatives", "strangers", "families"  # kinds of pairs of bases


@dataclass(frozen=True)
class Cost:
    """Time and memory. ``bytes`` is the peak, in the graphics card's memory if that is the device."""

    seconds: float
    bytes: int
    device: str


@dataclass(frozen=True)
class Forecast:
    """Recovery at strength 1 of transfers by weights; nine of ten measured ones lie within ``low`` and ``high``.

    Recovery is 1 for a LoRA that was trained on the target itself, 0 for no LoRA, and below 0 for harm.
    """

    mean: float
    low: float
    high: float
    related: bool  # the two bases


@dataclass(frozen=True)
class Measured:
    """What was seen in pictures of LoRAs that a method moved that runs the models: mean, least and most for a kind of pair.

    1 is as much of a style as a LoRA shows that was trained on the target, at equal loss of the subject. Source: the frontier of
    docs/seen.md.
    """

    kind: str
    mean: float
    low: float
    high: float
    pairs: int
    transfers: int


@dataclass(frozen=True)
class Proposal:
    """Another method for a declined transfer, with what was seen of it between such bases, and its cost."""

    method: str
    worth: Measured
    cost: Cost
