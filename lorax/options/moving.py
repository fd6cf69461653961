"""Declares the options of a transfer: those of every method, and those of methods that run the models."""

from dataclasses import dataclass
from functools import cached_property

from lorax.errors import LoraxError
from lorax.methods import METHODS, described
from lorax.options.option import Option, declared, option
from lorax.pairing import PAIRINGS
from lorax.subspace import RankRule

AUTO_RANK = "energy:0.95"
DENSE_RANK = 128  # largest rank of a delta that is not low-rank in its file, unless the user gives one
LARGEST = 10_000_000  # of a rank and of steps: more is a slip
FEWEST, MOST = 16, 4096  # pictures
PAIRING_WORDS = ("by name where the structures agree, else by weights", "by name", "by how alike the weights are")
SHARED = ("method", "pairing", "device", "max_rank")  # options that every method has


@dataclass(frozen=True)
class Options:
    """The options of a transfer. Raises LoraxError if a value is not valid."""

    method: str = option("auto", "Method", "How each layer is carried over", offered=described)
    rank: str = option(
        "auto",
        "Kept rank",
        "How many of a checkpoint's leading directions count as its style; methods that project keep only those",
        example="auto|N|25%|energy:0.95",
        placeholder="auto; or a number, or a share such as 25%",
    )
    threshold: float = option(
        0.8,
        "Similarity threshold",
        "For lorax and prolora: layers that are less alike than this in the two checkpoints are left out; 0 moves all of them",
        bounds=(0, 1),
    )
    pairing: str = option(
        "auto",
        "Pairing",
        "Which layer of the source feeds which layer of the target",
        offered=lambda: dict(zip(PAIRINGS, PAIRING_WORDS, strict=True)),
    )
    device: str = option(
        "auto",
        "Device",
        "What computes; auto is the graphics card where there is one, and mps uses the CPU, as Apple's cards lack the precision. "
        "In a WebUI, Refine and Bridge run where it draws",
        example="auto|cpu|cuda|mps",
    )
    max_rank: int | None = option(
        None,
        "Largest rank",
        f"Rank of the written LoRA at most, for a smaller file; empty: as the method gives, and {DENSE_RANK} for formats other "
        "than LoRA, whose layers can be of any rank",
        example="N",
        placeholder="no limit",
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise LoraxError(f"method {self.method!r}: expected one of {', '.join(METHODS)}.")
        if self.pairing not in PAIRINGS:
            raise LoraxError(f"pairing {self.pairing!r}: expected one of {', '.join(PAIRINGS)}.")
        _ = self.rule  # raises LoraxError if ``rank`` is not valid
        if not 0 <= self.threshold <= 1:
            raise LoraxError(f"threshold {self.threshold}: expected a similarity between 0 and 1.")
        _check_number("max rank", self.max_rank)

    @cached_property
    def rule(self) -> RankRule:
        return RankRule(AUTO_RANK if self.rank == "auto" else self.rank)


@dataclass(frozen=True)
class Running:
    """The options of methods that run the models. Raises LoraxError if a value is not valid."""

    pictures: int | None = option(
        None,
        "Pictures",
        f"How many are drawn with the LoRA, to learn from, {FEWEST} to {MOST}: more take longer. Bridge takes fewer of large "
        "ones, at least 8; empty: what served best, 64 for Refine, 256 if the families differ",
        example="N",
        placeholder="what served best",
        bounds=(FEWEST, MOST),
    )
    steps: int | None = option(
        None,
        "Training steps",
        "For Refine alone: how many it trains at most; empty: what served best",
        example="N",
        placeholder="what served best",
    )
    lora_rank: int | None = option(
        None,
        "Rank of the new LoRA",
        "How much each layer of it can hold, within the largest rank; empty: as much as in the original LoRA",
        example="N",
        placeholder="as in the LoRA",
    )
    trigger: str = option(
        "",
        "Trigger words",
        "They lead every second caption, so that what hides behind them is drawn; empty: those that the LoRA's card or metadata "
        "names, else the tag that it was trained on most",
        example="words",
        placeholder="those that the LoRA names",
    )
    captions: tuple[str, ...] = option(
        (),
        "Captions",
        "What the source draws, a caption a line; empty: plain captions of our own. Name what the LoRA is for, if that is "
        "narrow. Of more captions than pictures, some are left out",
        example="FILE",
        placeholder="one a line",
        lines=True,
    )

    def __post_init__(self) -> None:
        for one in declared(Running):
            given = getattr(self, one.name)
            if one.bounds and given is not None and not one.bounds[0] <= given <= one.bounds[1]:
                low, high = one.bounds
                raise LoraxError(f"{one.name} {_in_digits(given)}: expected a whole number from {low} to {high}.")
        for name in ("steps", "lora_rank"):
            _check_number(name, getattr(self, name))
        if blank := [number for number, caption in enumerate(self.captions, 1) if not caption.strip()]:
            raise LoraxError(f"captions: number {blank[0]} of {len(self.captions)} is empty. Leave it out, or give it words.")


def _check_number(name: str, number: int | None) -> None:
    if number is not None and not (isinstance(number, int) and 1 <= number <= LARGEST):
        raise LoraxError(f"{name} {_in_digits(number)}: expected a whole number of at least 1, and of at most {LARGEST}.")


def _in_digits(number: float) -> str:
    """The number, unless it has so many digits that Python does not print it."""
    return str(number) if isinstance(number, float) or abs(number) < 10**20 else "of many digits"


def without_effect(options: Options, running: Running) -> list[Option]:
    """Return the options that were changed and that the method does not have."""
    changed = [one for given in (options, running) for one in declared(type(given)) if getattr(given, one.name) != one.default]
    return [one for one in changed if one.name not in (*SHARED, *METHODS[options.method].options)]
